"""The interpolation properties of docs/theory.md, section 5."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import Schedule, ScheduleError
from otcache_core.transport import (
    coordinate,
    interpolate,
    levels,
    quantile_function,
    round_to_steps,
)


@st.composite
def schedules(draw: st.DrawFn, num_steps: int | None = None) -> Schedule:
    n = num_steps or draw(st.integers(1, 40))
    rest = draw(st.sets(st.integers(1, n - 1))) if n > 1 else set()
    return Schedule(n, (0, *sorted(rest)))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Schedule, Schedule]:
    n = draw(st.integers(1, 40))
    return draw(schedules(n)), draw(schedules(n))


@given(pairs())
def test_the_ends_are_returned_exactly(pair: tuple[Schedule, Schedule]) -> None:
    anchor, reference = pair
    assert interpolate(anchor, reference, anchor.budget, lam=0.0) is anchor
    assert interpolate(anchor, reference, reference.budget, lam=1.0) is reference
    if anchor.budget != reference.budget:
        assert interpolate(anchor, reference, anchor.budget) is anchor
        assert interpolate(anchor, reference, reference.budget) is reference


@given(schedules())
def test_reading_a_warp_at_its_own_levels_and_rounding_gives_the_schedule(s: Schedule) -> None:
    targets = quantile_function(s)(levels(s.budget))
    assert round_to_steps(targets, s.num_steps) == s.computed


@given(pairs())
def test_every_budget_gives_that_many_distinct_increasing_steps(
    pair: tuple[Schedule, Schedule],
) -> None:
    anchor, reference = pair
    n = anchor.num_steps
    for budget in range(1, n + 1):
        got = interpolate(anchor, reference, budget)
        assert (got.budget, got.num_steps) == (budget, n)  # Schedule checks the order
    assert interpolate(anchor, reference, 1).computed == (0,)
    assert interpolate(anchor, reference, n).computed == tuple(range(n))


@given(pairs(), st.floats(0.0, 1.0))
def test_one_anchor_for_both_ends_leaves_nothing_to_interpolate(
    pair: tuple[Schedule, Schedule], lam: float
) -> None:
    anchor, _ = pair
    assert interpolate(anchor, anchor, anchor.budget, lam).computed == anchor.computed


positions = st.one_of(st.floats(-0.5, 1.5), st.integers(0, 18).map(lambda k: k / 18))


@given(st.data(), st.integers(1, 9))
def test_rounding_equals_brute_force(data: st.DataObject, n: int) -> None:
    budget = data.draw(st.integers(1, n))
    targets = data.draw(st.lists(positions, min_size=budget, max_size=budget))

    def distance(steps: tuple[int, ...]) -> float:
        return sum((k - n * q) ** 2 for k, q in zip(steps, targets, strict=True))

    every = [(0, *rest) for rest in itertools.combinations(range(1, n), budget - 1)]
    best = min(distance(steps) for steps in every)
    got = round_to_steps(targets, n)
    assert distance(got) == pytest.approx(best, abs=1e-6)
    # Of equally good ones the one with the smaller steps, from the first on.
    assert got <= min(steps for steps in every if distance(steps) < best + 1e-9)


def test_ties_go_to_the_smaller_step() -> None:
    assert round_to_steps([0.0, 0.25, 0.65], 10) == (0, 2, 6)
    assert round_to_steps([0.0, 0.5, 0.5], 10) == (0, 4, 5)


def test_rounding_is_quick_for_long_runs() -> None:
    targets = np.linspace(0.0, 1.0, 500, endpoint=False) ** 2
    steps = round_to_steps(targets, 1000)
    assert len(set(steps)) == 500


@pytest.mark.parametrize("targets", [[], [0.0] * 4, [0.0, np.nan]])
def test_targets_that_cannot_be_steps_are_refused(targets: list[float]) -> None:
    with pytest.raises(ScheduleError):
        round_to_steps(targets, 3)


@given(schedules())
def test_a_quantile_function_is_increasing_from_0_to_1(s: Schedule) -> None:
    q = quantile_function(s)(np.linspace(0.0, 1.0, 101))
    assert (q[0], q[-1]) == (0.0, 1.0)
    assert (np.diff(q) > 0).all()


@pytest.mark.parametrize(("budget", "lam"), [(2, 0.0), (4, 0.0), (5, 1 / 3), (10, 1.0), (30, 1.0)])
def test_lam_is_linear_in_the_cost_and_clamped(budget: int, lam: float) -> None:
    assert coordinate(budget, 4, 10) == pytest.approx(lam)
    assert coordinate(budget, 10, 4) == pytest.approx(1.0 - lam)


def test_lam_of_equal_budgets_is_a_step() -> None:
    assert [coordinate(b, 5, 5) for b in (4, 5, 6)] == [0.0, 0.0, 1.0]


def test_between_two_schedules_a_single_step_moves_on_a_line() -> None:
    early, late = Schedule(100, (0, 20)), Schedule(100, (0, 60))
    steps = [interpolate(early, late, 2, lam).computed[1] for lam in (0.0, 0.25, 0.5, 1.0)]
    assert steps == [20, 30, 40, 60]


def test_bad_arguments_are_refused() -> None:
    a, b = Schedule(5, (0, 1)), Schedule(6, (0, 1))
    with pytest.raises(ScheduleError, match=r"reference\.num_steps must be 5, got 6"):
        interpolate(a, b, 2)
    with pytest.raises(ScheduleError, match="budget must be an integer between 1 and 5, got 6"):
        interpolate(a, a, 6)
    with pytest.raises(ScheduleError, match="lam must be between 0 and 1"):
        interpolate(a, a, 2, lam=1.5)
