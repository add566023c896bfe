"""The default schedule: the steps of least prior cost, against every schedule there is."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import ScheduleError
from otcache_core.uncalibrated import EXACT_UP_TO, default_schedule, default_steps


def prior_cost(steps: tuple[int, ...], num_steps: int, widths: list[float]) -> float:
    """Add up the sum in the docstring of default_schedule, term by term."""
    total = 0.0
    for k, j in pairwise((*steps, num_steps)):
        for t in range(k + 1, j):
            u = (t + 0.5) / num_steps
            end = 0.01 * min(1.0, 5 * len(steps) / num_steps) ** 4
            bend = 1 + 20 * np.exp(-10 * u) + end / max(1 - u, 0.01) ** 2
            total += widths[t] * bend * (t - k) * (t - k + j - k) / 2
    return total


def grids(num_steps: int) -> st.SearchStrategy[list[float]]:
    falling = st.lists(st.integers(1, 9), min_size=num_steps, max_size=num_steps)
    return falling.map(lambda gaps: (1 - np.cumsum([0, *gaps]) / sum(gaps)).round(9).tolist())


@given(st.data())
def test_no_schedule_of_the_budget_costs_less(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 9))
    budget = data.draw(st.integers(1, n))
    grid = data.draw(st.one_of(st.just([]), grids(n)))
    widths = np.abs(np.diff(grid)).tolist() if grid else [1.0] * n
    found = default_schedule(n, budget, grid).computed
    others = [(0, *later) for later in combinations(range(1, n), budget - 1)]
    least = min(prior_cost(steps, n, widths) for steps in others)
    assert len(found) == budget
    assert prior_cost(found, n, widths) <= least * (1 + 1e-9) + 1e-12


@given(st.integers(1, 40), st.data())
def test_any_run_and_budget_has_its_steps(num_steps: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, num_steps))
    schedule = default_schedule(num_steps, budget)
    assert (schedule.num_steps, schedule.budget) == (num_steps, budget)
    assert schedule.forecaster == "variable-order"


@pytest.mark.parametrize("budget", [1, 2, 100, EXACT_UP_TO, EXACT_UP_TO + 1])
def test_steps_of_long_runs_are_as_many(budget: int) -> None:
    steps = default_steps(EXACT_UP_TO + 1, budget)
    assert steps[0] == 0
    assert len(set(steps)) == budget
    assert max(steps) <= EXACT_UP_TO


def test_quantiles_come_near_the_optimum() -> None:
    exact, long = default_steps(400, 40), default_steps(4000, 40)
    assert np.abs(np.array(exact) * 10 - np.array(long)).max() < 120  # of 4000 steps


def test_noise_levels_and_timesteps_are_read_as_flow_times() -> None:
    flow = np.linspace(0.98, 0.0, 31)
    levels = flow / (1 - flow)  # sigma / alpha
    assert default_schedule(30, 7, levels) == default_schedule(30, 7, flow)
    assert default_schedule(30, 7, 1000 * flow) == default_schedule(30, 7, flow)


@pytest.mark.parametrize(
    ("prediction", "largest", "flow"),
    [("flow", 1.0, True), ("flow", 1000.0, False), ("epsilon", 1.0, False), (None, 1.0, False)],
)
def test_what_is_known_as_a_flow_is_forecast_as_one(
    prediction: str | None, largest: float, flow: bool
) -> None:
    schedule = default_schedule(30, 7, np.linspace(largest, 0.0, 31), prediction)
    assert schedule.forecaster == ("variable-order-flow" if flow else "variable-order")


@pytest.mark.parametrize("grid", [[0.5] * 31, [np.nan] * 31, np.zeros(0)])
def test_a_grid_that_says_nothing_counts_steps(grid: list[float]) -> None:
    assert default_schedule(30, 7, grid) == default_schedule(30, 7)


@pytest.mark.parametrize("budget", [0, 31, 2.5, True, "ten"])
def test_a_bad_budget_is_refused(budget: object) -> None:
    with pytest.raises(ScheduleError, match="budget"):
        default_schedule(30, budget)  # type: ignore[arg-type]


def test_a_grid_of_another_length_is_refused() -> None:
    with pytest.raises(ScheduleError, match="grid must have 31 values, got 30"):
        default_schedule(30, 7, np.linspace(1, 0, 30))
