"""Calibrations by name: what they cost, what they say of it, and the policies that come of few samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy import STEPS, make_loop
from typer.testing import CliRunner

import otcache
from otcache.calibration.contest import Contender, baselines, candidate, settle_ladder
from otcache.calibration.efforts import EFFORTS, full_runs, recipe_of
from otcache.calibration.recipe import BASELINES, UNIFORM, Recipe
from otcache.calibration.record import request_of
from otcache.cli.app import app
from otcache.progress import Stages
from otcache.running import choose
from otcache_core import OtcacheError, Schedule
from otcache_core.contracts import Evaluation
from otcache_core.plugins import installed
from otcache_core.uncalibrated import default_schedule

PROMPTS = ["one", "two", "three", "four"]
FEW = Recipe(anchor_trials=4, climb_trials=2, ladder=(3, 6))


def quick(budgets: Any, **options: Any) -> otcache.Calibration:
    return otcache.calibrate(
        make_loop(), PROMPTS, STEPS, effort="quick", budgets=budgets, progress=False, **options
    )


@pytest.mark.parametrize(
    ("budgets", "num_steps", "most"),
    [((10,), 30, 6), ((15,), 30, 9), ((6, 10, 15), 30, 12), ((16,), 50, 6), ((4,), 12, 6)],
)
def test_quick_promises_what_it_may_cost(
    budgets: tuple[int, ...], num_steps: int, most: int
) -> None:
    recipe = recipe_of("quick", budgets=budgets).resolve(num_steps)
    assert recipe.ladder == budgets
    assert full_runs(recipe, num_steps, samples=2) <= most


@pytest.mark.parametrize("budgets", [[4], [3, 5, 7]])
def test_quick_costs_what_it_promised_and_runs_two_samples_once(budgets: list[int]) -> None:
    calibration = quick(budgets)
    recipe = recipe_of("quick", budgets=budgets).resolve(STEPS)
    assert [rung.schedule.budget for rung in calibration.ladder] == budgets
    assert len(calibration.samples) == 2
    assert calibration.nfe["record"] == 2 * STEPS
    assert sum(calibration.nfe.values()) <= full_runs(recipe, STEPS, 2) * STEPS


def test_a_quick_policy_has_other_budgets_as_without_calibration() -> None:
    calibration = quick([4, 6])
    policy = otcache.plan(calibration)
    measured = {rung.schedule.budget: rung.schedule for rung in calibration.ladder}
    for budget in (2, 3, 4, 6, 7, 11):
        wanted = measured.get(budget) or default_schedule(STEPS, budget, calibration.grid)
        assert policy.schedule(budget) == wanted


def test_a_quick_calibration_keeps_nothing_above_what_needs_none() -> None:
    for rung in quick([3, 5, 8]).ladder:
        assert {"uniform, reuse", "uniform, linear", "default"} <= rung.candidates.keys()
        error = rung.candidates["default"].error
        assert error is not None
        assert rung.error <= error * (1 + 1e-9)


def test_a_quick_calibration_is_kept_and_read_back(tmp_path: Path) -> None:
    made = quick([4], directory=tmp_path)
    again, read = quick([4], directory=tmp_path), otcache.Calibration.load(tmp_path)
    assert otcache.plan(made) == otcache.plan(again) == otcache.plan(read)


def test_standard_is_what_is_done_without_a_word() -> None:
    assert recipe_of(None) == recipe_of("standard") == Recipe(least_samples=8)
    assert EFFORTS["thorough"].refinement == "gauss-newton"


@pytest.mark.parametrize(
    ("prompts", "seeds", "wanted"),
    [
        (3, None, [(k % 3, k) for k in range(9)]),
        (8, None, [(k, k) for k in range(8)]),
        (9, None, [(k, k) for k in range(9)]),
        (2, (5, 6), [(0, 5), (0, 6), (1, 5), (1, 6)]),
    ],
)
def test_of_few_prompts_each_has_several_seeds(
    prompts: int, seeds: tuple[int, ...] | None, wanted: list[tuple[int, int]]
) -> None:
    texts, loop = [str(n) for n in range(prompts)], make_loop()
    probe = choose(installed(), "probes", loop)
    found = request_of(probe, loop, texts, seeds, STEPS, {}, 8, recipe_of(None).least_samples)
    pairs = [(int(str(p)), seed) for p, seed in zip(found.prompts, found.seeds, strict=True)]
    assert pairs == wanted


@pytest.mark.remedy("is a recipe by itself, and recipe= another: give one of them")
def test_an_effort_is_a_recipe() -> None:
    with pytest.raises(OtcacheError, match="give one of them"):
        otcache.calibrate(make_loop(), PROMPTS, STEPS, effort="quick", recipe=Recipe())
    assert recipe_of("quick") == EFFORTS["quick"]
    assert recipe_of(None, Recipe(seed=3)) == Recipe(seed=3)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"effort": "fast"}, "effort must be one of quick, standard, thorough, got 'fast'"),
        ({"effort": 3}, "effort must be one of quick"),
        ({"budgets": "8"}, "budgets must be a row of integers, got '8'"),
        ({"budgets": 8}, "budgets must be a row of integers, got 8"),
        ({"budgets": []}, "budgets must be at least one integer"),
        ({"budgets": [2.5]}, r"Recipe.ladder must be .*got 2\.5"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_run(options: dict[str, Any], wanted: str) -> None:
    loop = make_loop()
    with pytest.raises(OtcacheError, match=wanted):
        otcache.calibrate(loop, PROMPTS, STEPS, progress=False, **options)
    assert loop.denoiser.calls == 0


@pytest.mark.parametrize(("effort", "wanted"), [("quick", "below 12"), ("standard", "at most 12")])
def test_a_budget_above_n_is_refused_after_the_first_run_which_shows_n(
    effort: str, wanted: str
) -> None:
    loop = make_loop()
    with pytest.raises(OtcacheError, match=rf"Recipe\.ladder must be {wanted}"):
        otcache.calibrate(loop, PROMPTS, STEPS, effort=effort, budgets=[22], progress=False)
    assert loop.denoiser.calls == STEPS


@pytest.mark.parametrize("baselines", ["uniform, reuse", ["default"], [UNIFORM, "mine"]])
def test_baselines_are_some_of_the_five_and_uniform_reuse(baselines: Any) -> None:
    with pytest.raises(
        OtcacheError, match=r"Recipe\.baselines must be 'uniform, reuse' and any of"
    ):
        Recipe(baselines=baselines)
    assert Recipe(baselines=BASELINES[::-1]).baselines == BASELINES


def test_the_fallback_is_one_of_the_baselines() -> None:
    with pytest.raises(
        OtcacheError, match=r"Recipe\.fallback must be None or one of 'uniform, reuse'"
    ):
        Recipe(baselines=[UNIFORM], fallback="default")
    assert Recipe(fallback="default").fallback == "default"


def test_every_effort_says_its_cost_before_and_after_the_first_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    otcache.calibrate(make_loop(), PROMPTS, STEPS, effort="quick", budgets=[5])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "calibrating takes at most 5 full runs of a sample."
    assert said[1].startswith("calibrating takes at most 5 full runs of a sample: 0:0")


def test_the_command_line_has_efforts_and_budgets(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    words = ["calibrate", "toy:make_loop", "--steps", str(STEPS), "--prompts", str(prompts)]
    words += ["--effort", "quick", "--budgets", "4,6", "--json", "--out", str(tmp_path / "kept")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["nfe"]["record"] == 2 * STEPS
    kept = otcache.Calibration.load(tmp_path / "kept")
    assert [rung.schedule.budget for rung in kept.ladder] == [4, 6]


def test_standard_takes_what_quick_recorded_in_the_same_folder(tmp_path: Path) -> None:
    """And gives what it would have given by itself, up to the rounding of other batches."""
    quick([4], directory=tmp_path)
    quick_files = {path.name for path in (tmp_path / "samples").glob("*.safetensors")}
    loop, alone = make_loop(), make_loop()
    options: Any = {"progress": False, "recipe": FEW}
    made = otcache.calibrate(loop, PROMPTS, STEPS, directory=tmp_path, **options)
    fresh = otcache.calibrate(alone, PROMPTS, STEPS, **options)
    files = {path.name for path in (tmp_path / "samples").glob("*.safetensors")}
    assert len(quick_files) == 2
    assert len(files) == 4
    assert quick_files < files
    assert [r.winner for r in made.ladder] == [r.winner for r in fresh.ladder]
    for one, other in zip(made.ladder, fresh.ladder, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-3)
    before = loop.denoiser.calls
    again = otcache.calibrate(loop, PROMPTS, STEPS, directory=tmp_path, **options)
    assert loop.denoiser.calls == before
    assert otcache.plan(again) == otcache.plan(made)
    assert otcache.plan(quick([4], directory=tmp_path)).measured[0].budget == 4


def test_another_sampler_over_the_same_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for other samples than were recorded: old ones would be mixed with new ones."""
    monkeypatch.setattr("otcache_diffusers.recording.probe.fingerprint_of", lambda target: "same")
    quick([4], directory=tmp_path)
    known, other = make_loop(), make_loop(power=1.0)
    other.grid = known.grid
    with pytest.raises(OtcacheError, match="the sampler is not the one whose runs are kept"):
        otcache.calibrate(other, PROMPTS, STEPS, directory=tmp_path, progress=False, recipe=FEW)


def test_more_prompts_are_recorded_beside_those_that_are_there(tmp_path: Path) -> None:
    options: Any = {"directory": tmp_path, "progress": False, "recipe": FEW}
    for count in (2, 3, 4):
        otcache.calibrate(make_loop(), PROMPTS[:count], STEPS, **options)
        assert len(list((tmp_path / "samples").glob("*.safetensors"))) == count


@pytest.mark.parametrize("calls", [3, 5, 8, 12, 17, 23])
def test_a_calibration_that_was_killed_goes_on_to_the_same_policy(
    tmp_path: Path, calls: int
) -> None:
    """Also one that began with what another effort had recorded; ``calls`` batches into it."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options: Any = {"progress": False, "recipe": replace(FEW, batch_size=1)}
    for folder in (whole, cut):
        quick([4], directory=folder)
    made = otcache.calibrate(make_loop(), PROMPTS, STEPS, directory=whole, **options)
    loop = make_loop()
    loop.denoiser.register_forward_hook(Kill(calls * STEPS))
    with pytest.raises(KeyboardInterrupt):
        otcache.calibrate(loop, PROMPTS, STEPS, directory=cut, **options)
    again = otcache.calibrate(make_loop(), PROMPTS, STEPS, directory=cut, **options)
    assert otcache.plan(again) == otcache.plan(made)


class Kill:
    """Interrupts at one of the denoiser's calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, *args: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("reuse", "kept"), [([0.05, 0.2], "quantile"), ([0.08, 0.08], UNIFORM), ([0.01, 0.01], UNIFORM)]
)
def test_two_samples_must_agree_before_uniform_steps_are_kept(
    reuse: list[float], kept: str
) -> None:
    """Fitted 0.12 on both, without calibration 0.1 and 0.2; reuse may be lucky on one."""
    n, budget = 12, 4
    contender = contender_of([0.12, 0.12], Schedule(n, (0, 2, 5, 9)))
    every = baselines(contender.schedule, ())
    errors = {every[UNIFORM]: reuse, every["default"]: [0.1, 0.2]}
    bench = bench_of(
        lambda s: errors.get(s, [0.9, 0.9]), replace(EFFORTS["quick"], ladder=(budget,)), n
    )
    (rung,) = settle_ladder(bench, [contender])
    assert rung.winner == kept


@pytest.mark.parametrize(
    ("num_steps", "branches", "default", "kept"),
    [
        (12, ("cond", "uncond"), 0.15, "default"),
        (12, ("cond", "uncond"), 0.25, "quantile"),
        (24, ("cond", "uncond"), 0.15, "quantile"),  # B/N below a quarter
        (12, (), 0.15, "quantile"),
        (12, (), 0.1, "default"),
    ],
)
def test_under_guidance_weights_of_two_samples_must_be_far_below_what_needs_none(
    num_steps: int, branches: tuple[str, ...], default: float, kept: str
) -> None:
    """Fitted 0.12 on both."""
    steps = Schedule(num_steps, (0, 2, 5, 9))
    contender = contender_of([0.12, 0.12], steps, branches)
    errors = {baselines(steps, ())["default"]: [default, default]}
    recipe = replace(EFFORTS["quick"], ladder=(4,))
    bench = bench_of(lambda s: errors.get(s, [0.9, 0.9]), recipe, num_steps)
    (rung,) = settle_ladder(bench, [contender])
    assert rung.winner == kept


def contender_of(
    errors: list[float], schedule: Schedule, branches: tuple[str, ...] = ()
) -> Contender:
    logs, rows = np.log(errors), [(0.1,)] * 4
    fitted = schedule.with_weights(rows, dict.fromkeys(branches, rows))
    return Contender(fitted, "quantile", logs, {"quantile": candidate(logs)})


def bench_of(errors: Any, recipe: Recipe, n: int) -> Any:
    """Return a bench that evaluates from a table."""

    def evaluate(schedules: Any, *, samples: Any = None, **how: Any) -> Evaluation:
        chosen = [0, 1] if samples is None else list(samples)
        found = np.array([errors(s) for s in schedules])[:, chosen]
        return Evaluation(tuple(schedules), found, 1, np.zeros((0, 0, 0)))

    return SimpleNamespace(
        recipe=recipe,
        evaluator=SimpleNamespace(evaluate=evaluate),
        trajectories=[None] * 2,
        stages=Stages(False),
        allowance=lambda stage, runs: 10**6,
        fidelity="rmse",
        num_steps=n,
        prediction="",
        grid=(),
    )
