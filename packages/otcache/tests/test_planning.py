"""Which rungs of a calibration become a policy's, and which are worth nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pytest

import otcache
from otcache_core import OtcacheError, Schedule
from otcache_core.calibration import Calibration, Rung
from otcache_core.errors import OtcacheNotice


def _calibration(num_steps: int, errors: Mapping[int, float]) -> Calibration:
    """A calibration that measured these errors by budget."""
    schedules = {b: Schedule(num_steps, tuple(range(b))) for b in {*errors, 2, 3}}
    return Calibration(
        provenance={"num_steps": num_steps},
        num_steps=num_steps,
        grid=np.linspace(1, 0, num_steps + 1),
        samples=("one",),
        gram=np.eye(num_steps),
        span_costs=np.zeros((num_steps, num_steps + 1)),
        anchor=schedules[2],
        reference=schedules[3],
        ladder=tuple(Rung(schedules[b], error) for b, error in sorted(errors.items())),
        nfe={},
    )


def _budgets(policy: otcache.Policy) -> list[int]:
    return [rung.budget for rung in policy.ladder]


def test_a_rung_worse_than_a_cheaper_one_is_left_out() -> None:
    policy = otcache.plan(_calibration(30, {4: 0.3, 8: 0.1, 10: 0.2, 15: 0.05}))
    assert _budgets(policy) == [4, 8, 15]


@pytest.mark.parametrize("num_steps", [4, 8])
def test_few_steps_that_cannot_be_told_from_each_other_are_all_computed(num_steps: int) -> None:
    calibration = _calibration(num_steps, {1: 0.4, 2: 0.2, 3: 0.1})
    wanted = (
        f"no worthwhile budget for {num_steps} steps .computing 3 of them leaves 25% of the error "
        "of computing one.* compute them all"
    )
    with pytest.raises(OtcacheError, match=wanted):
        otcache.plan(calibration)


def test_few_steps_keep_the_rungs_of_small_error_and_a_notice_names_the_others() -> None:
    with pytest.warns(OtcacheNotice, match=r"budgets below 3 are not worthwhile for 8 steps"):
        policy = otcache.plan(_calibration(8, {1: 0.4, 2: 0.2, 3: 0.04, 5: 0.01}))
    assert _budgets(policy) == [3, 5]


def test_few_steps_without_loss_are_planned_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtcacheNotice)
        assert _budgets(otcache.plan(_calibration(8, {1: 0.4, 2: 0.01, 3: 0.001}))) == [2, 3]


def test_without_a_rung_of_one_step_the_worst_one_is_the_measure() -> None:
    with pytest.raises(OtcacheError, match="no worthwhile budget for 6 steps"):
        otcache.plan(_calibration(6, {2: 0.2, 3: 0.1}))


def test_runs_of_more_steps_are_not_concerned() -> None:
    assert _budgets(otcache.plan(_calibration(9, {2: 0.2, 3: 0.1}))) == [2, 3]
