"""What ``otcache inspect`` shows of a calibration, and ``otcache plugins list`` of plugins."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.main import get_command

from otcache.calibration.contest import clearly_below
from otcache.calibration.recipe import BASELINES
from otcache.cli.app import app
from otcache.console import wide_enough
from otcache.inspection import candidate_table, draw, kept_table
from otcache.plugin_tools.listing import plugin_table
from otcache_core import Policy, Provenance, Schedule
from otcache_core.calibration import Calibration, Candidate, Rung

N = 30


def _rung(budget: int, winner: str, table: dict[str, Candidate]) -> Rung:
    schedule = Schedule(N, tuple(range(budget)))
    if ", " not in winner or "rounding" in winner:
        schedule = schedule.with_weights([(0.1,)] * budget)
    error = table[winner].error
    assert error is not None
    return Rung(schedule, error, winner, table)


FITTED = {name: Candidate(0.05, 8) for name in ("quantile", "lexicographic", "second-order")}
RUNGS = (
    _rung(4, "uniform, reuse", FITTED | {"uniform, reuse": Candidate(0.04, 8)}),
    _rung(
        5,
        "quantile, rounding 3",
        FITTED
        | {"quantile, rounding 2": Candidate(0.01, 8), "quantile, rounding 3": Candidate(0.02, 8)}
        | {"uniform, reuse": Candidate(0.123456, 2), "uniform, linear": Candidate(None, 2)},
    ),
    _rung(12, "second-order", FITTED),
)


def _calibration() -> Calibration:
    return Calibration(
        provenance={"num_steps": N},
        num_steps=N,
        grid=np.linspace(1, 0, N + 1),
        samples=tuple("abcdefgh"),
        gram=np.eye(N),
        span_costs=np.zeros((N, N + 1)),
        anchor=RUNGS[0].schedule,
        reference=RUNGS[-1].schedule,
        ladder=RUNGS,
        nfe={},
        fidelity="rmse",
    )


@pytest.fixture(scope="module")
def shown() -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(candidate_table(_calibration()))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_rung_with_all_candidates_fits_on_80_characters() -> None:
    names = ("quantile", "lexicographic", "second-order", "quantile, rounding 2", *BASELINES)
    rung = _rung(4, "quantile", {name: Candidate(0.0123456, 2) for name in names})
    out = io.StringIO()
    Console(file=out, width=80).print(candidate_table(replace(_calibration(), ladder=(rung,))))
    assert "…" not in out.getvalue()
    assert out.getvalue().count("~.0123") == len(names)


def test_every_candidate_has_a_column_and_fits_on_80_characters(shown: list[str]) -> None:
    assert shown[0] == "rmse of every candidate on 8 calibration samples"
    assert max(map(len, shown)) <= 80
    assert not any("…" in line for line in shown)
    head = " ".join(shown[1:3]).split()
    assert [head.count(word) for word in ("quantile", "graphic", "reuse", "linear")] == [2, 1, 1, 1]


def test_no_cell_is_cut_on_a_terminal_however_narrow(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = io.StringIO()
    table = candidate_table(_calibration())
    wide_enough(table, out).print(table)
    assert [line.rstrip() for line in out.getvalue().splitlines()][1:6] == shown[1:6]


def test_what_is_kept_screened_broken_or_missing_is_marked(shown: list[str]) -> None:
    rows = [line.split() for line in shown[3:6]]
    assert rows[0] == ["4", ".05", ".05", ".05", "-", "-", ".04*"]
    assert rows[1] == ["5", ".05", ".05", ".05", ".02*", "~broke", "~.123"]
    assert rows[2] == ["12", ".05", ".05", ".05*", "-", "-", "-"]


def test_a_rung_that_a_baseline_won_and_one_that_is_omitted_say_so(shown: list[str]) -> None:
    assert shown[7] == "B = 4: uniform, reuse is kept; fitted has 1.25 times its error."
    assert shown[8].startswith("B = 12: omitted, no baseline was measured")


def test_a_plugin_s_line_says_what_is_not_installed() -> None:
    row = {"kind": "metrics", "distribution": "mine", "summary": "by eye"}
    rows = [row | {"name": "a", "missing": ["eyes", "ears"]}, row | {"name": "b", "missing": []}]
    _, about, _ = plugin_table(rows).columns
    assert [str(cell) for cell in about.cells] == [
        "",
        "by eye (not installed: eyes, ears)",
        "by eye",
    ]


@pytest.mark.remedy("not clearly below on {} samples: give more prompts", value=True)
def test_what_is_better_and_not_kept_says_why_and_more_prompts_help() -> None:
    one, other = np.log([0.45, 1.02]), np.zeros(2)
    rows = {
        4: ({"policy": 1.0, "uniform, reuse": 1.5, "mine": float(np.exp(one.mean()))}, "policy")
    }
    assert not clearly_below(one, other)
    out = io.StringIO()
    Console(file=out, width=80).print(kept_table(rows, "rmse", 2))
    *_, line = out.getvalue().split("B = 4: ")
    assert " ".join(line.split()) == (
        "policy is kept; mine has 0.68 times its error, but not clearly below on 2 samples: give more "
        "prompts."
    )
    assert clearly_below(np.tile(one, 4), np.zeros(8))
    out = io.StringIO()
    kept = {4: (rows[4][0], "mine")}
    Console(file=out, width=80).print(kept_table(kept, "rmse", 8))
    assert "clearly" not in out.getvalue()


def test_a_policy_that_a_solver_chose_says_what_measures_it() -> None:
    policy = Policy(
        Schedule(N, (0, 5)), Schedule(N, (0, 5, 9)), Provenance(num_steps=N), solver="mine"
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(draw(policy, [policy.anchor]))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # of a StringIO
    assert "mine, not measured; what measures it:" in text
    assert "otcache plan CALIBRATION --solver mine --pipe PIPELINE --out POLICY" in text
    assert "otcache compare PIPELINE --methods solver:mine --out FOLDER" in text
    for line in (line.strip() for line in text.splitlines() if "otcache " in line):
        _, verb, *words = line.split()
        get_command(app).commands[verb].make_context(verb, words)  # type: ignore[attr-defined]


def test_brackets_in_a_file_are_no_markup() -> None:
    rung = _rung(4, "[/red]", {"[/red]": Candidate(0.1, 8), "uniform, reuse": Candidate(0.2, 8)})
    policy = Policy(
        Schedule(N, (0, 5), "[/x]"), rung.schedule, Provenance(num_steps=N, model_class="[bold]")
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(draw(policy, [policy.anchor]))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # of a StringIO
    assert all(name in text for name in ("[/x]", "[bold]"))


def test_a_policy_says_whose_forecast_weights_it_has() -> None:
    shared = Schedule(N, (0, 5), "fitted", ((0.1,), (0.2,)))
    own = shared.with_weights(shared.weights, {"cond": [(0.1,), ()], "uncond": [(0.3,), ()]})
    for schedule, guidance, wanted in (
        (shared, "CFGZeroStar(guidance_scale=4.0)", "shared by all branches of guidance"),
        (own, "cfg 4.0", "own ones for cond, uncond"),
        (shared, "none", None),
    ):
        policy = Policy(schedule, schedule, Provenance(num_steps=N, guidance=guidance))
        console = Console(file=io.StringIO(), width=200)
        console.print(draw(policy, [schedule]))
        text = console.file.getvalue()  # type: ignore[attr-defined]  # of a StringIO
        assert (wanted or "") in text
        assert ("forecast weights" in text) == (wanted is not None)
