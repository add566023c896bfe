"""A calibration survives its folder, or says what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from otcache_core import Calibration, FileError, OtcacheError, Rung, Schedule
from otcache_core.calibration import Candidate
from otcache_core.storage.array_files import save_arrays


def test_it_comes_back_as_it_was(calibration: Calibration, tmp_path: Path) -> None:
    calibration.save(tmp_path / "new" / "folder")
    back = Calibration.load(tmp_path / "new" / "folder")
    for field in fields(Calibration):
        np.testing.assert_equal(getattr(back, field.name), getattr(calibration, field.name))
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "calibration.json",
        "calibration.safetensors",
    ]


def test_the_cost_is_given_in_full_runs(calibration: Calibration) -> None:
    assert calibration.full_runs == 3.0  # 36 evaluations / (6 steps * 2 samples)


def test_costs_may_be_infinite(calibration: Calibration, tmp_path: Path) -> None:
    costs = calibration.span_costs.copy()
    costs[0, 6] = np.inf
    replace(calibration, span_costs=costs).save(tmp_path)
    assert np.isinf(Calibration.load(tmp_path).span_costs[0, 6])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"grid": np.zeros(3)}, "Calibration.grid must be of shape (7,), got (3,)"),
        ({"gram": np.full((6, 6), np.nan)}, "Calibration.gram holds NaN or infinity"),
        ({"span_costs": -np.ones((6, 7))}, "costs must be >= 0"),
        ({"anchor": Schedule.full(3)}, "num_steps of a schedule must be 6, got 3"),
        ({"samples": ()}, "Calibration.samples must be at least one label"),
        ({"nfe": {"record": -1}}, "Calibration.nfe must be counts >= 0"),
    ],
)
def test_bad_parts_are_refused(calibration: Calibration, change: dict, text: str) -> None:
    with pytest.raises(OtcacheError) as caught:
        replace(calibration, **change)
    assert text in str(caught.value)


@pytest.mark.parametrize("error", [-1.0, float("nan"), float("inf")])
def test_a_rung_has_a_true_error(error: float) -> None:
    with pytest.raises(OtcacheError, match="rung error must be a finite number >= 0"):
        Rung(Schedule.full(2), error)
    with pytest.raises(OtcacheError, match="candidate error must be a finite number >= 0"):
        Candidate(error, 1)


def test_a_candidate_was_measured_on_a_sample_at_least() -> None:
    with pytest.raises(OtcacheError, match="candidate samples must be at least 1, got 0"):
        Candidate(0.5, 0)


def test_a_winner_is_one_of_the_candidates() -> None:
    with pytest.raises(OtcacheError, match="rung winner must be one of its candidates: quantile"):
        Rung(Schedule.full(2), 0.5, "uniform, reuse", {"quantile": Candidate(0.5, 1)})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("version", 7, "field 'version' must be 4, got 7"),
        ("surprise", 1, "unknown field `surprise`"),
        ("num_steps", "six", "field 'num_steps': Expected `int`, got `str`"),
        ("samples", [], "Calibration.samples must be at least one label"),
        ("nfe", {"record": -1}, "Calibration.nfe must be counts >= 0"),
        ("arrays_digest", "0", "digest must be 0, got"),
    ],
)
def test_bad_facts_are_named(
    calibration: Calibration, tmp_path: Path, key: str, value: object, text: str
) -> None:
    calibration.save(tmp_path)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(FileError) as caught:
        Calibration.load(tmp_path)
    assert text in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_truncated_or_foreign_arrays_are_refused(calibration: Calibration, tmp_path: Path) -> None:
    calibration.save(tmp_path)
    path = tmp_path / "calibration.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FileError, match="truncated or not a safetensors file"):
        Calibration.load(tmp_path)
    save_arrays(path, {"grid": np.zeros(7)})
    with pytest.raises(FileError, match="the file is damaged or of another calibration"):
        Calibration.load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"calibration\.json: cannot be read: No such file"):
        Calibration.load(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be made"):
        calibration.save(tmp_path / "file" / "folder")
