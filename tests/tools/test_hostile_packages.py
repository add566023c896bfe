"""Beside packages that do harm everything works that does not ask for them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from hostile_packages import PACKAGES, write

import otcache
from otcache.cli.app import app
from otcache_core.plugins import installed
from otcache_core.plugins.discovery import PluginSettings, found_entry_points


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins_anew: None) -> Path:
    """Install them for this process; a module that it imports leaves a trace in the folder."""
    write(tmp_path / "site")
    (tmp_path / "traces").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("HOSTILE_TRACES", str(tmp_path / "traces"))
    importlib.invalidate_caches()
    return tmp_path / "traces"


def test_they_are_there_and_there_are_enough(beside: Path) -> None:
    found = {point.distribution for point in found_entry_points(PluginSettings(), True)}
    assert {package.name for package in PACKAGES} <= found
    assert len(PACKAGES) >= 16


def test_calibrate_plan_run_and_inspect_import_none_of_them(beside: Path, tmp_path: Path) -> None:
    (tmp_path / "two").write_text("a\nb\n")
    place = {name: str(tmp_path / name) for name in ("two", "calibration", "policy", "other")}
    lines = (
        "calibrate toy:make_loop --steps 12 --prompts {two} --out {calibration}",
        "plan {calibration} --out {policy}",
        "plan {calibration} --solver shortest-path --out {other}",
        "inspect {policy}",
    )
    for line in lines:
        words = [word.format(**place) for word in line.split()]
        outcome = CliRunner().invoke(app, [*words, "--json"])
        assert outcome.exit_code == 0, outcome.exception
        json.loads(outcome.stdout)
    import toy

    loop = toy.make_loop()
    with otcache.accelerate(loop, otcache.load_policy(place["policy"]), 4) as run:
        loop(["a"], [0], 12)
    assert run.report.computed == {"call": 4}
    assert type(installed().create("solvers", "quantile")).__name__ == "Quantile"
    assert not list(beside.iterdir())
