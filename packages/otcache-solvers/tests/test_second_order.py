"""The pair dynamic program against explicit forecasts of explicit vectors."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, ScheduleProblem
from otcache_core.testing import ToySampler
from otcache_solvers.additive.second_order import SecondOrder
from otcache_solvers.costs.gram import ForecastCosts, Gram

RIDGE = 1e-4


def displacement(v, grid, previous, k, stop):
    """E ||sum_t h_t (vhat_t - v_t)||^2 with one least-squares problem a skipped step."""
    terms = [k] if previous is None else [k, previous]
    d = v.shape[1]
    inner = v[terms] @ v[terms].T / d
    inner += RIDGE * np.trace(inner) / len(terms) * np.eye(len(terms))
    total = np.zeros(d)
    for t in range(k + 1, stop):
        c = np.linalg.solve(inner, v[terms] @ v[t] / d)
        total += (grid[t + 1] - grid[t]) * (c @ v[terms] - v[t])
    return float(total @ total) / d


def objective(v, grid, steps, gains):
    ends = (*steps, len(v))
    return sum(
        gains[stop] ** 2 * displacement(v, grid, steps[m - 1] if m else None, steps[m], stop)
        for m, stop in enumerate(ends[1:])
    )


def random_run(n, seed, d=5):
    rng = np.random.default_rng(seed)
    v = np.cumsum(rng.standard_normal((n, d)), axis=0)
    grid = np.concatenate([np.sort(rng.random(n))[::-1], [0.0]])
    return v, grid, rng.random(n + 1) * 3


def problem_of(v, grid, budget, gains=None):
    n = len(v)
    return ScheduleProblem(n, budget, gram=gram_of(v), grid=grid, gains=gains)


def gram_of(v):
    return v @ v.T / v.shape[1]


@given(st.integers(1, 7), st.integers(0, 10_000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_it_equals_the_best_of_all_schedules(n, seed, weighted):
    v, grid, gains = random_run(n, seed)
    problem = problem_of(v, grid, n, gains if weighted else None)
    frontier = SecondOrder(RIDGE).frontier(problem)
    gains = gains if weighted else np.ones(n + 1)
    for budget in range(1, n + 1):
        schedules = [(0, *r) for r in itertools.combinations(range(1, n), budget - 1)]
        best = min(objective(v, grid, steps, gains) for steps in schedules)
        got = frontier[budget - 1]
        assert got.result is Result.OPTIMAL
        assert got.objective == got.lower_bound == pytest.approx(best, rel=1e-8, abs=1e-13)
        assert objective(v, grid, got.schedule.computed, gains) == pytest.approx(
            best, rel=1e-8, abs=1e-13
        )


def test_every_entry_of_the_table_is_the_displacement_of_its_span():
    v, grid, _ = random_run(8, seed=3)
    q = ForecastCosts(gram_of(v), grid).table()
    for p, k, j in itertools.product(range(8), range(8), range(9)):
        if p < k < j:
            assert q[p, k, j] == pytest.approx(displacement(v, grid, p, k, j), rel=1e-7, abs=1e-13)
        elif p == k == 0 and j > 0:
            assert q[p, k, j] == pytest.approx(displacement(v, grid, None, 0, j), abs=1e-13)
        else:
            assert q[p, k, j] == np.inf


def test_spans_of_length_one_cost_nothing():
    v, grid, _ = random_run(9, seed=1)
    q = ForecastCosts(gram_of(v), grid).table()
    for k in range(1, 9):
        assert not q[:k, k, k + 1].any()


def test_outputs_in_a_plane_are_forecast_almost_exactly_from_two():
    rng = np.random.default_rng(0)
    grid = np.linspace(1.0, 0.0, 11)
    v = rng.standard_normal(4) + grid[:-1, None] * rng.standard_normal(4)
    solve = SecondOrder(ridge=1e-12).solve
    assert solve(problem_of(v, grid, 2)).objective < 1e-9
    assert solve(problem_of(v, grid, 1)).objective > 1e-4


def test_silent_outputs_cost_nothing():
    costs = ForecastCosts(np.zeros((5, 5)), np.linspace(1.0, 0.0, 6)).table()
    assert set(np.unique(costs)) == {0.0, np.inf}


def test_a_zero_gain_makes_the_spans_that_stop_there_free():
    v, grid, _ = random_run(7, seed=5)
    gains = np.ones(8)
    gains[7] = 0.0
    solution = SecondOrder().solve(problem_of(v, grid, 2, gains))
    assert solution.schedule.computed == (0, 1)
    assert solution.objective == 0.0


def test_the_objective_never_rises_much_with_the_budget_on_a_smooth_run():
    sampler = ToySampler(num_steps=20)
    gram = Gram.of(sampler.trajectories()).matrix
    found = SecondOrder().frontier(ScheduleProblem(20, 20, gram=gram, grid=sampler.grid))
    values = [solution.objective for solution in found]
    assert values[-1] == 0.0
    assert all(after <= before for before, after in itertools.pairwise(values))


@pytest.mark.parametrize(("n", "limit"), [(30, 0.2), (50, 1.0)])
def test_all_budgets_are_planned_in_one_quick_pass(n, limit):
    sampler = ToySampler(num_steps=n)
    gram = Gram.of(sampler.trajectories()).matrix
    problem = ScheduleProblem(n, n, gram=gram, grid=sampler.grid)
    began = time.perf_counter()
    found = [solution.schedule.budget for solution in SecondOrder().frontier(problem)]
    assert found == list(range(1, n + 1))
    assert time.perf_counter() - began < 2 * limit  # twice: the machine may be busy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gram": np.full((4, 4), np.nan)}, "gram holds NaN"),
        ({"gram": np.triu(np.ones((4, 4)))}, "must be symmetric"),
        ({"grid": np.full(5, np.inf)}, "grid holds NaN or infinity"),
        ({"gains": np.full(5, np.nan)}, "gains holds NaN"),
        ({"gram": None}, "needs the Gram matrix of the outputs, got none"),
        ({"grid": None}, "needs the grid, got none"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"gram": np.eye(4), "grid": np.linspace(1.0, 0.0, 5)}
    SecondOrder().solve(ScheduleProblem(4, 2, **good))
    with pytest.raises(OtcacheError, match=message):
        SecondOrder().solve(ScheduleProblem(4, 2, **{**good, **change}))


@pytest.mark.parametrize("ridge", [0.0, -1.0, np.nan])
def test_a_ridge_that_is_none_is_refused_when_the_solver_is_made(ridge):
    with pytest.raises(OtcacheError, match="ridge must be above 0"):
        SecondOrder(ridge)
