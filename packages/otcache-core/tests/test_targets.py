"""From a target to a budget: conformal ranks, curves that fall, and what is said where nothing is known."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core.errors import OtcacheError, OtcacheNotice
from otcache_core.policy import Policy, Provenance
from otcache_core.schedule import Schedule
from otcache_core.targets import Frontier, Measured, at_quantile, budget_of_speedup, rank_of

N = 30
ERRORS = st.lists(st.floats(1e-9, 10.0), min_size=1, max_size=12)


def policy_of(rungs: dict[int, dict[str, Any]], planned: tuple[int, ...] = ()) -> Policy:
    """Return a policy that measured these errors by budget."""
    budgets = sorted({*rungs, *planned})
    ladder = tuple(Schedule(N, tuple(range(b))) for b in budgets)
    measured = tuple(Measured.of(b, errors) for b, errors in sorted(rungs.items()))
    return Policy(ladder[0], ladder[-1], Provenance(num_steps=N), ladder, measured=measured)


@given(st.integers(1, 200), st.floats(0.01, 0.99))
def test_the_rank_covers_a_new_sample_with_the_probability_asked_for(
    samples: int, quantile: float
) -> None:
    """Of n + 1 exchangeable values each is at each rank alike: r / (n + 1) is the coverage."""
    try:
        rank = rank_of(quantile, samples)
    except OtcacheError:
        assert samples / (samples + 1) < quantile
        return
    assert rank / (samples + 1) >= quantile - 1e-8
    assert rank == 1 or (rank - 1) / (samples + 1) < quantile


@pytest.mark.remedy("calibrate on {} at least, or omit quantile")
def test_a_quantile_that_so_few_samples_cannot_have_is_refused() -> None:
    policy = policy_of({5: {"rmse": [0.1, 0.2]}})
    with pytest.raises(
        OtcacheError, match=r"quantile must be at most 0\.67 on 2 samples, got 0\.9"
    ):
        policy.for_error("rmse", 0.3, quantile=0.9)
    assert policy.for_error("rmse", 0.3) == 5
    enough = policy_of({5: {"rmse": np.linspace(0.1, 0.2, 9)}})
    assert enough.for_error("rmse", 0.3, quantile=0.9) == 5


@pytest.mark.parametrize("quantile", [0, 1, -0.5, True, "0.5", math.nan])
def test_a_quantile_lies_between_0_and_1(quantile: Any) -> None:
    with pytest.raises(OtcacheError, match="quantile must be a number between 0 and 1"):
        rank_of(quantile, 10)


def test_of_too_few_samples_the_worst_counts() -> None:
    assert at_quantile(np.array([0.1, 0.3]), None) == 0.3
    assert at_quantile(np.array([0.3, 0.1, 0.2, 0.5]), None) == 0.5  # the fourth of four
    assert at_quantile(np.arange(1.0, 8.0), None) == 6.0


@given(st.dictionaries(st.integers(1, N - 1), ERRORS, min_size=1, max_size=8), st.data())
def test_errors_fall_with_the_budget_and_the_least_one_meets_the_target(
    rungs: dict[int, list[float]], data: st.DataObject
) -> None:
    measured = [Measured.of(b, {"rmse": errors}) for b, errors in sorted(rungs.items())]
    planned = data.draw(st.lists(st.integers(1, N), max_size=5))
    frontier = Frontier(measured, "rmse", N, 0.5, planned)
    errors = [frontier.error(b) for b in range(1, N + 1)]
    assert all(a >= b * (1 - 1e-9) for a, b in pairwise(errors))
    assert errors[-1] == 0.0
    limit = data.draw(st.floats(1e-10, 20.0))
    budget = frontier.least(limit)
    assert errors[budget - 1] <= limit * (1 + 1e-8)
    assert budget == 1 or errors[budget - 2] > limit


@given(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=6))
def test_where_errors_fall_the_measured_ones_stand(errors: list[float]) -> None:
    falling = sorted(errors, reverse=True)
    measured = [Measured.of(2 + 3 * i, {"rmse": [e]}) for i, e in enumerate(falling)]
    frontier = Frontier(measured, "rmse", N, 0.5)
    for one, error in zip(measured, falling, strict=True):
        assert frontier.error(one.budget) == pytest.approx(error)


def test_between_budgets_it_is_a_power_of_the_budget_and_as_the_smaller_where_nothing_was_fitted() -> (
    None
):
    rungs = {4: {"rmse": [0.16]}, 16: {"rmse": [0.01]}}
    assert policy_of(rungs).frontier("rmse", 0.5).error(8) == pytest.approx(0.04)
    assert policy_of(rungs, planned=(8,)).frontier("rmse", 0.5).error(8) == pytest.approx(0.16)
    assert policy_of(rungs).frontier("rmse", 0.5).error(3) == math.inf
    assert policy_of(rungs).frontier("rmse", 0.5).error(29) == pytest.approx(0.01)


def test_psnr_is_rmse_in_decibels() -> None:
    policy = policy_of({5: {"rmse": [0.11]}, 8: {"rmse": [0.0999]}, 12: {"rmse": [0.001]}})
    assert policy.for_error("psnr", 20, quantile=0.5) == 8
    assert policy.for_error("psnr", 60, quantile=0.5) == 12


def test_qualities_are_lpips_and_a_speedup() -> None:
    lpips = {4: 0.2, 6: 0.09, 8: 0.04, 12: 0.009}
    policy = policy_of({b: {"lpips": [e] * 8} for b, e in lpips.items()})
    names = ("lossless", "high", "balanced", "fast")
    assert [policy.for_quality(name) for name in names] == [12, 8, 6, 7]
    with pytest.raises(OtcacheError, match="quality must be one of lossless, high, balanced, fast"):
        policy.for_quality("best")


@given(st.integers(1, 100), st.floats(1.0, 100.0))
def test_a_speedup_is_reached_by_the_largest_budget(num_steps: int, ratio: float) -> None:
    if ratio > num_steps:
        with pytest.raises(OtcacheError, match="speedup must be a number from 1 to"):
            budget_of_speedup(ratio, num_steps)
        return
    budget = budget_of_speedup(ratio, num_steps)
    assert num_steps / budget >= ratio - 1e-6
    assert budget == num_steps or num_steps / (budget + 1) < ratio


def test_where_no_budget_meets_it_every_step_is_computed_and_that_is_said() -> None:
    policy = policy_of({5: {"lpips": [0.3]}, 20: {"lpips": [0.1]}})
    with pytest.warns(
        OtcacheNotice, match=r"no budget below 30 met lpips 0\.01 on the calibration"
    ):
        assert policy.for_error("lpips", 0.01) == N


@pytest.mark.remedy("calibrate again to measure it")
def test_what_was_not_measured_is_named() -> None:
    policy = policy_of({5: {"rmse": [0.1]}})
    with pytest.raises(OtcacheError, match="metric must be one of rmse, got 'lpips'"):
        policy.for_quality("high")
    unknown = Policy(policy.anchor, policy.reference, policy.provenance, policy.ladder)
    with pytest.raises(OtcacheError, match="and none was, got 'rmse'"):
        unknown.for_error("rmse", 0.1)
    assert unknown.expected(5) == {}
    again = policy_of({5: {"rmse": [0.1], "lpips": [0.02]}})
    assert again.for_quality("high") == 5


@pytest.mark.parametrize("value", [0, -1, math.inf, "small", True])
def test_a_target_is_a_positive_number(value: Any) -> None:
    with pytest.raises(OtcacheError, match="target rmse must be a number above 0"):
        policy_of({5: {"rmse": [0.1]}}).for_error("rmse", value)


def test_a_budget_that_broke_changes_no_other_one() -> None:
    policy = policy_of({4: {"rmse": [0.1]}, 6: {"rmse": [math.inf]}, 8: {"rmse": [0.05]}})
    assert policy.for_error("rmse", 0.15) == 4
    assert policy.for_error("rmse", 0.06) == 8
    assert policy.frontier("rmse", 0.5).error(6) == math.inf


def test_a_budget_that_few_samples_ran_at_is_passed_over() -> None:
    """A baseline may have won on a part of the samples."""
    few, all_ = {"rmse": [0.1] * 3}, {"rmse": [0.05] * 9}
    policy = policy_of({4: few, 8: all_})
    assert policy.for_error("rmse", 0.2, quantile=0.9) == 8
    assert policy.for_error("rmse", 0.2, quantile=0.5) == 4
    with pytest.raises(OtcacheError, match=r"at most 0\.9 on 9 samples"):
        policy.for_error("rmse", 0.2, quantile=0.95)


def test_what_is_expected_of_a_measured_budget_is_its_own_median() -> None:
    policy = policy_of({4: {"rmse": [0.1]}, 6: {"rmse": [0.2]}, 8: {"rmse": [0.02, 0.04, 0.9]}})
    assert policy.expected(6) == {"rmse": 0.2}
    assert policy.expected(8) == {"rmse": 0.04}
    assert policy.frontier("rmse", 0.5).error(6) < 0.2


def test_numbers_may_be_of_numpy() -> None:
    policy = policy_of({5: {"rmse": [0.1]}})
    assert policy.for_error("rmse", np.float32(0.3), quantile=np.float64(0.5)) == 5
    assert policy.for_speedup(np.int64(3)) == 10


def test_runs_that_broke_are_above_every_target(tmp_path: Any) -> None:
    policy = policy_of({5: {"rmse": [0.1, math.nan, math.inf]}, 9: {"rmse": [0.1, 0.2, 0.1]}})
    policy.save(tmp_path / "p.otcache")
    assert Policy.load(tmp_path / "p.otcache") == policy
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtcacheNotice)
        assert policy.for_error("rmse", 0.5) == 9
    assert policy.expected(9) == {"rmse": pytest.approx(0.1)}


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Measured(0, {"rmse": (0.1,)}),
        lambda: Measured(5, {"rmse": ()}),
        lambda: Measured(5, {"rmse": (-0.1,)}),
        lambda: policy_of({5: {"rmse": [0.1]}}).__class__(
            Schedule(N, (0,)),
            Schedule(N, (0,)),
            Provenance(num_steps=N),
            measured=(Measured(5, {"rmse": (0.1,)}), Measured(5, {"rmse": (0.1,)})),
        ),
    ],
)
def test_errors_that_cannot_be_are_refused(broken: Any) -> None:
    with pytest.raises(OtcacheError, match="measured"):
        broken()
