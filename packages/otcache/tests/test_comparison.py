"""Which schedule of a budget is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from otcache.calibration.contest import best_of, clearly_below
from otcache_core import OtcacheError, Schedule

A, B, C = (Schedule(8, (0, k)) for k in (3, 4, 5))


def _bench(errors: dict[Schedule, list[float]]) -> Any:
    def evaluate(schedules: Any, **how: Any) -> Any:
        return SimpleNamespace(
            schedules=tuple(schedules),
            errors=np.array([errors[s] for s in schedules]),
            others={},
        )

    return SimpleNamespace(
        evaluator=SimpleNamespace(evaluate=evaluate),
        fidelity="rmse",
        fit=True,
        forecast=lambda schedule: schedule,
    )


def test_candidates_compete_by_geometric_mean() -> None:
    best = best_of(_bench({A: [1.0, 4.0], B: [2.9, 1.0]}), {"quantile": A, "second-order": B})
    assert (best.schedule, best.name) == (B, "second-order")
    assert best.error == pytest.approx(2.9**0.5)
    assert {n: c.error for n, c in best.candidates.items()} == pytest.approx(
        {"quantile": 2.0, "second-order": 2.9**0.5}
    )
    assert {c.samples for c in best.candidates.values()} == {2}


def test_equal_schedules_run_once_and_are_in_the_table_twice() -> None:
    best = best_of(_bench({A: [1.0, 1.0]}), {"quantile": A, "lexicographic": A})
    assert best.name == "quantile"
    assert best.candidates["lexicographic"] == best.candidates["quantile"]


@pytest.mark.parametrize(
    ("lucky", "chosen"), [([0.7, 1.05, 0.9], B), ([0.8, 1.2, 0.9], A)], ids=["clear", "luck"]
)
def test_a_variant_must_be_clearly_better(lucky: list[float], chosen: Schedule) -> None:
    bench = _bench({A: [1.0, 1.0, 1.0], B: lucky, C: [2.0, 2.0, 2.0]})
    best = best_of(bench, {"quantile": A}, [B, C])
    assert best.schedule is chosen
    assert list(best.candidates) == ["quantile", "quantile, rounding 2", "quantile, rounding 3"]


def test_a_variant_that_is_also_a_proposal_competes_as_that() -> None:
    bench = _bench({A: [1.0, 1.0], B: [0.5, 1.9]})
    best = best_of(bench, {"quantile": A, "second-order": B}, [B])
    assert (best.schedule, best.name) == (B, "second-order")
    assert list(best.candidates) == ["quantile", "second-order"]


def test_a_sound_variant_replaces_broken_candidates() -> None:
    bench = _bench({A: [np.nan, 1.0], B: [0.5, 0.5]})
    best = best_of(bench, {"quantile": A}, [B])
    assert best.schedule is B
    assert best.candidates["quantile"].error is None
    with pytest.raises(OtcacheError, match="every schedule of budget 2 broke the run"):
        best_of(_bench({A: [np.inf, 1.0]}), {"quantile": A})


def test_one_sample_says_nothing_about_its_error() -> None:
    assert not clearly_below(np.array([0.0]), np.array([9.0]))
    assert clearly_below(np.array([0.0, 1.0]), np.array([0.5, 2.0]))
    assert not clearly_below(np.array([0.0, 1.0]), np.array([1.1, 0.9]))
