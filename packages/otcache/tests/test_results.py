"""Results survive a file, and contradictions are named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from otcache.report.results import Cell, Missing, Results
from otcache_core import FileError, OtcacheError

CELL = Cell(
    "otcache", 5, 5, 6.0, 5.6, (0, 3, 9, 17, 25), {"rmse": (0.1, 0.0), "psnr": (20, math.inf)},
    seconds=0.1, speedup_spread=0.2, seconds_spread=0.0,
)  # fmt: skip
RESULTS = Results("demo", 30, (("a cat", 0, "animal"), ("a cat", 1, "animal")), (CELL,))


def test_results_survive_a_file(tmp_path: Path) -> None:
    results = replace(
        RESULTS,
        provenance={"model": {"class": "X"}},
        stage_nfe={"fit": 3},
        command="c",
        sources={"otcache": "this project"},
        calibration_nfe={"otcache": 3},
        full={"frechet": 4.0},
        frames_per_second=8.0,
        missing=(Missing("fora", None, "no U-Net"),),
    )
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    assert Results.from_dict(json.loads(json.dumps(results.to_dict()))) == results


def test_identical_images_are_null_in_the_file() -> None:
    assert RESULTS.to_dict()["cells"][0]["metrics"]["psnr"] == (20, None)


def test_lookups() -> None:
    other = replace(CELL, method="uniform", budget=3)
    results = replace(RESULTS, cells=(CELL, other))
    assert results.budgets == (3, 5)
    assert results.methods == ("otcache", "uniform")
    assert results.metrics == ("rmse", "psnr")
    assert results.prompts == (0, 0)
    assert results.at(3) == (other,)
    assert results.cell("uniform", 5) is None


def test_contradictions_are_named() -> None:
    with pytest.raises(OtcacheError, match="one value for each of the 1 samples"):
        replace(RESULTS, labels=RESULTS.labels[:1])
    with pytest.raises(OtcacheError, match="once"):
        replace(RESULTS, cells=(CELL, CELL))
    with pytest.raises(OtcacheError, match="at least one cell"):
        replace(RESULTS, cells=())
    with pytest.raises(OtcacheError, match="otcache at budget 5: rmse"):
        replace(CELL, metrics={"rmse": (math.nan, 0.0)})
    with pytest.raises(OtcacheError, match="frechet must be finite"):
        replace(CELL, totals={"frechet": math.inf})
    with pytest.raises(OtcacheError, match="budget and nfe"):
        replace(CELL, nfe=0)
    for bad in (
        {"measured_speedup": 0.0},
        {"ideal_speedup": math.inf},
        {"seconds": -1.0},
        {"speedup_spread": None},
        {"seconds_spread": math.nan},
        {"measured_speedup": None},
        {"seconds": None},
    ):
        with pytest.raises(OtcacheError, match=r"otcache at budget 5: (speedup or|a time and its)"):
            replace(CELL, **bad)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(OtcacheError, match=r"at most the ideal 6 within its spread of 0\.2"):
        replace(CELL, measured_speedup=50.95)
    untimed = {"measured_speedup": None, "speedup_spread": None, "seconds": None}
    assert replace(CELL, **untimed, seconds_spread=None).withheld == ""  # type: ignore[arg-type]
    for rate in (-1.0, math.inf, math.nan):
        with pytest.raises(OtcacheError, match="frames_per_second must be a finite number"):
            replace(RESULTS, frames_per_second=rate)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 6', '"version": 9', "version"),
        ('"otcache-results"', '"something"', "format"),
        ('"budget": 5', '"budget": "five"', "budget"),
        ('"budget": 5', '"budget": 0', "budget and nfe"),
        ('"title"', '"tilte"', "tilte|title"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "results.json"
    RESULTS.save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(FileError, match=f"results.json.*({message})"):
        Results.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 10**9}, "num_steps must be at most 100000"),
        ({"num_steps": 20}, "otcache at budget 5: computed steps must be increasing, below 20"),
        ({"cells": (replace(CELL, schedule=(3, 3)),)}, "computed steps must be increasing"),
        ({"full": {"frechet": math.nan}}, "frechet must be finite, got nan"),
        (
            {"full_metrics": {"video": (0.1, math.nan)}},
            "full run: video must be a number per sample",
        ),
        (
            {"cells": tuple(replace(CELL, budget=b) for b in range(1, 1002))},
            "cells must be at most",
        ),
    ],
)
def test_what_no_report_can_show_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        replace(RESULTS, **changes)


@pytest.mark.parametrize("changes", [{"flops": -1.0}, {"peak_bytes": -1}, {"flops": math.inf}])
def test_counts_are_finite_and_at_least_0(changes: dict[str, float]) -> None:
    with pytest.raises(OtcacheError, match="must be finite"):
        replace(CELL, **changes)
