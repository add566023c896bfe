"""``otcache compare`` with real worker processes: our rules, and foreign baselines that fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from otcache.cli.app import app
from otcache.comparison.job import Job
from otcache.comparison.runner import Settings, compare, join, run_shard
from otcache.comparison.shards import Shard
from otcache.report.results import Results
from otcache_core import OtcacheError

pytestmark = pytest.mark.slow

PLUGIN = """
from contextlib import contextmanager

from otcache_core.contracts import Baseline, BaselineSetting
from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_baselines():
    return [Info("raises", "foreign:Raises"), Info("skips-nothing", "foreign:SkipsNothing")]


class Base(Baseline):
    source = "foreign 0.1"

    def supports(self, target, request):
        return ""

    def settings(self, num_steps, budgets, measured):
        return [BaselineSetting(f"knob={k}", {"knob": k}, num_steps) for k in (1, 2)]

    @contextmanager
    def apply(self, target, setting, measured):
        print("a library that prints to standard output")
        if isinstance(self, Raises):
            raise IndexError("list index out of range")
        yield


class Raises(Base):
    by_budget = True


class SkipsNothing(Base):
    pass
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins_anew: None) -> None:
    """Provide a distribution that worker processes find, though nobody installed it."""
    facts = tmp_path / "foreign-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[otcache]\nforeign = foreign\n")
    (tmp_path / "foreign.py").write_text(PLUGIN)
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def job(**changes: Any) -> Job:
    facts: dict[str, Any] = {
        "title": "two prompts",
        "pipeline": "demo",
        "num_steps": 5,
        "budgets": (2, 3),
        "samples": (("a large red circle", 1000, "shape"), ("the digit 7", 1001, "glyph")),
        "calibration": ("a small blue star",),
        "reference_steps": 6,
    }
    return Job(**{**facts, **changes})


def ask(directory: Path, methods: tuple[str, ...]) -> Results:
    return compare(job(), methods, directory, Settings(progress=False, command="otcache compare"))[
        0
    ]


def timeless(path: Path) -> dict[str, Any]:
    found = json.loads((path / "results.json").read_text())
    for cell in found["cells"]:
        for name in (
            *("seconds", "seconds_spread", "measured_speedup", "speedup_spread", "withheld"),
            "peak_bytes",
        ):
            del cell[name]
    return found


def test_methods_beside_each_other(tmp_path: Path, foreign: None) -> None:
    folder = tmp_path / "out"
    made = ask(folder, ("uniform", "raises", "skips-nothing"))
    uniform = [made.cell("uniform", b) for b in (2, 3)]
    assert [cell.nfe for cell in uniform if cell] == [2.0, 3.0]  # counted, not believed
    assert all(cell and cell.metrics["rmse"] > (0.0, 0.0) for cell in uniform)
    idle = next(cell for cell in made.cells if cell.method == "skips-nothing")
    assert (idle.budget, idle.nfe, idle.metrics["rmse"]) == (5, 5.0, (0.0, 0.0))
    raised = [gap for gap in made.missing if gap.method == "raises"]
    assert [gap.budget for gap in raised] == [2, 3]
    assert "list index out of range" in raised[0].reason
    assert (folder / "report.html").stat().st_size > 10_000

    # Killed half-way: the rest only is finished, and the figures are those of an unbroken run.
    before = timeless(folder)
    (kept,) = (folder / "work" / "uniform").glob("run-B-2_*.json")
    age = kept.stat().st_mtime_ns
    next((folder / "work" / "uniform").glob("run-B-3_*.json")).unlink()
    (folder / "results.json").unlink()
    ask(folder, ("uniform", "raises", "skips-nothing"))
    assert kept.stat().st_mtime_ns == age
    assert timeless(folder) == before

    # In two shares, with a folder each: joined they are the one run.
    shares = [tmp_path / "a", tmp_path / "b"]
    for number, share in enumerate(shares, 1):
        settings = Settings(progress=False, command="otcache compare")
        methods = ("uniform", "raises", "skips-nothing")
        run_shard(job(), methods, share, Shard(number, 2), settings)
    join(shares, tmp_path / "joined")
    assert timeless(tmp_path / "joined") == before

    # A report of shares is of what is finished when it is asked for, not of an earlier look.
    (shares[0] / "results.json").write_text("{}")
    assert CliRunner().invoke(app, ["report", str(shares[0])]).exit_code == 0
    methods = {cell["method"] for cell in timeless(shares[0])["cells"]}
    assert methods == {"uniform", "skips-nothing"}


def test_a_share_that_cannot_make_the_full_runs_fails(tmp_path: Path) -> None:
    settings, lost = Settings(progress=False), job(pipeline="nowhere:at_all")
    with pytest.raises(OtcacheError, match="the full runs could not be made"):
        run_shard(lost, ("uniform",), tmp_path / "out", Shard(1, 2), settings)
