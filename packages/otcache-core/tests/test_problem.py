"""Problems, solutions and trajectories refuse what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest

from otcache_core import (
    KeptOut,
    Need,
    OtcacheError,
    Result,
    Schedule,
    ScheduleError,
    ScheduleProblem,
    Solution,
    Trajectory,
)

N = 4


def costs() -> np.ndarray:
    return np.triu(np.ones((N, N + 1)), k=2)


def with_entry(i: int, j: int, value: float) -> np.ndarray:
    changed = costs()
    changed[i, j] = value
    return changed


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (costs()[:, :-1], "costs must be of shape (4, 5), got (4, 4)"),
        (with_entry(0, 3, np.nan), "costs must be >= 0, got NaN"),
        (with_entry(0, 3, -0.1), "costs must be >= 0, got NaN or a negative"),
        (with_entry(1, 2, 0.1), "costs of spans of length one must be 0"),
    ],
)
def test_bad_costs_are_refused(table: np.ndarray, text: str) -> None:
    with pytest.raises(OtcacheError) as caught:
        ScheduleProblem(N, 2, table)
    assert str(caught.value).startswith(text)


@pytest.mark.remedy("got NaN or a negative entry: give spans that must not be skipped the cost inf")
def test_infinite_costs_and_anything_below_the_diagonal_are_allowed() -> None:
    with pytest.raises(OtcacheError, match="the cost infinity"):
        ScheduleProblem(N, 2, with_entry(0, 4, np.nan))
    table = with_entry(0, 4, np.inf)
    table[3, 0] = np.nan
    assert ScheduleProblem(N, 2, table).costs is table


def test_a_problem_checks_budget_and_policies() -> None:
    with pytest.raises(ScheduleError, match="budget must be"):
        ScheduleProblem(N, 5)
    with pytest.raises(OtcacheError, match=r"anchor\.num_steps must be 4, got 5"):
        ScheduleProblem(N, 2, anchor=Schedule.full(5))


def test_what_a_problem_lacks_is_named_in_order() -> None:
    problem = ScheduleProblem(N, 2, costs(), grid=np.arange(N + 1.0))
    assert problem.lacks(set(Need)) == (
        Need.GRAM,
        Need.GAINS,
        Need.DISPLACEMENTS,
        Need.ANCHOR,
        Need.REFERENCE,
        Need.EVALUATOR,
    )
    assert problem.lacks({Need.GRID, Need.COSTS}) == ()
    for name, wrong in (("gram", np.eye(5)), ("grid", np.ones(N)), ("gains", np.ones(N))):
        with pytest.raises(OtcacheError, match=f"{name} must be of shape"):
            ScheduleProblem(N, 2, **{name: wrong})


def test_a_refinement_is_accepted_where_it_is_better_on_what_was_kept_out() -> None:
    assert KeptOut(start=2.0, refined=1.0).accepted
    assert not KeptOut(1.0, 1.0).accepted
    assert not KeptOut(1.0, float("nan")).accepted


def test_a_solution_has_a_schedule_unless_infeasible() -> None:
    with pytest.raises(OtcacheError, match="None exactly when infeasible"):
        Solution(None, 0.0, Result.OPTIMAL)
    with pytest.raises(OtcacheError, match="None exactly when infeasible"):
        Solution(Schedule.full(2), 0.0, Result.INFEASIBLE)
    with pytest.raises(OtcacheError, match=r"lower_bound must be at most 1\.0"):
        Solution(Schedule.full(2), 1.0, Result.OPTIMAL, lower_bound=1.1)


def test_results_are_advice() -> None:
    assert all(result.value.endswith(".") for result in Result)


@pytest.mark.parametrize(
    ("part", "value", "text"),
    [
        ("grid", np.zeros(3), "Trajectory.grid must be of shape (5,)"),
        ("states", np.zeros((4, 2)), "Trajectory.states must be of shape (5, 2)"),
        ("outputs", np.zeros(4), "Trajectory.outputs must be of shape (N, d)"),
        ("states", np.full((5, 2), np.nan), "Trajectory.states of 'cat' holds NaN"),
    ],
)
def test_a_bad_trajectory_is_refused(part: str, value: np.ndarray, text: str) -> None:
    parts = {"grid": np.zeros(5), "states": np.zeros((5, 2)), "outputs": np.zeros((4, 2))}
    with pytest.raises(OtcacheError) as caught:
        Trajectory(**{**parts, part: value}, label="cat")
    assert str(caught.value).startswith(text)
