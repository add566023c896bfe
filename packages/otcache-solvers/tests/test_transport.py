"""Optimal transport between schedules: properties, and one solver against another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem
from otcache_core.testing import ToySampler
from otcache_core.transport import coordinate
from otcache_solvers.costs.gram import Gram
from otcache_solvers.transport.exact_lp import ExactLP, HiGHS, NetworkSimplex
from otcache_solvers.transport.geodesic import between, ground_cost
from otcache_solvers.transport.quantile import Quantile
from otcache_solvers.transport.sinkhorn import EpsilonSchedule, Sinkhorn
from otcache_solvers.transport.unbalanced import Unbalanced

N = 16


@st.composite
def schedules(draw: Any, low: int = 1, high: int = N) -> Schedule:
    rest = draw(st.sets(st.integers(1, N - 1), min_size=low - 1, max_size=high - 1))
    return Schedule(N, (0, *sorted(rest)))


@st.composite
def ends(draw: Any) -> tuple[Schedule, Schedule]:
    anchor = draw(schedules(1, 5))
    return anchor, draw(schedules(anchor.budget + 1, 9))


def _distances(power: float) -> np.ndarray:
    index = np.arange(N) / N
    return np.abs(index[:, None] - index) ** power


def _value(pi: np.ndarray, cost: np.ndarray) -> float:
    return float((pi * cost).sum())


def _uniform(a: Schedule, b: Schedule) -> tuple[np.ndarray, np.ndarray]:
    return np.full(a.budget, 1 / a.budget), np.full(b.budget, 1 / b.budget)


def _monotone(a: Schedule, b: Schedule) -> np.ndarray:
    """Return the quantile coupling, by hand: overlap of the two partitions of [0, 1]."""
    low_a, low_b = np.arange(a.budget) / a.budget, np.arange(b.budget) / b.budget
    high = np.minimum((low_a + 1 / a.budget)[:, None], low_b + 1 / b.budget)
    return np.maximum(high - np.maximum(low_a[:, None], low_b), 0.0)


@given(ends(), st.sampled_from([1.5, 2.0, 3.0]))
@settings(max_examples=20, deadline=None)
def test_for_a_strictly_convex_cost_the_program_gives_the_quantile_coupling(pair, power):
    cost = between(_distances(power), *pair)
    pi = NetworkSimplex()(*_uniform(*pair), cost)
    np.testing.assert_allclose(pi, _monotone(*pair), atol=1e-9)


@given(ends())
@settings(max_examples=20, deadline=None)
def test_for_a_merely_convex_cost_it_gives_the_same_value(pair):
    cost = between(_distances(1.0), *pair)
    pi = NetworkSimplex()(*_uniform(*pair), cost)
    assert _value(pi, cost) == pytest.approx(_value(_monotone(*pair), cost), abs=1e-12)


@given(ends(), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_two_programs_agree_on_any_cost(pair, seed):
    raw = np.random.default_rng(seed).random((N, N))
    cost = between(raw - np.diag(np.diagonal(raw)), *pair)
    values = [_value(solve(*_uniform(*pair), cost), cost) for solve in (NetworkSimplex(), HiGHS())]
    assert values[0] == pytest.approx(values[1], abs=1e-9)


@given(ends(), st.integers(1, N))
@settings(max_examples=30, deadline=None)
def test_with_the_squared_distance_it_is_the_quantile_solver(pair, budget):
    problem = ScheduleProblem(N, budget, anchor=pair[0], reference=pair[1])
    exact = ExactLP().solve(problem)
    quantile = Quantile().solve(problem).schedule
    if 0 < coordinate(budget, pair[0].budget, pair[1].budget) < 1:
        assert exact.schedule.computed == quantile.computed
    assert exact.schedule.budget == budget


@given(
    ends(),
    st.integers(0, 1000),
    st.sampled_from([ExactLP(), Sinkhorn(epsilon=EpsilonSchedule(end=0.05))]),
)
@settings(max_examples=12, deadline=None)
def test_anchor_and_reference_come_back_whatever_the_cost(pair, seed, solver):
    raw = np.random.default_rng(seed).random((N, N))
    cost = raw - np.diag(np.diagonal(raw))
    for end in pair:
        problem = ScheduleProblem(N, end.budget, anchor=pair[0], reference=pair[1])
        assert replace(solver, cost=cost).solve(problem).schedule == end


def test_sinkhorn_tends_to_the_linear_program_as_epsilon_falls():
    pair = Schedule(N, (0, 5, 11)), Schedule(N, (0, 1, 3, 4, 8, 13, 15))
    cost = between(_distances(2.0), *pair)
    exact = _value(NetworkSimplex()(*_uniform(*pair), cost), cost)
    above = []
    for epsilon in (1.0, 0.1, 0.01, 0.001):
        coupling = Sinkhorn(epsilon=EpsilonSchedule(end=epsilon)).couple(cost)
        assert coupling.converged
        assert coupling.residual <= 1e-8
        above.append(_value(coupling.pi, cost) - exact)
    assert above == sorted(above, reverse=True)
    assert above[-1] < 1e-2 * above[0]


def test_a_stopped_sinkhorn_says_so():
    anchor, reference = Schedule(N, (0, 5, 11)), Schedule(N, (0, 1, 3, 4, 8, 13, 15))
    problem = ScheduleProblem(N, 5, anchor=anchor, reference=reference)
    stopped = Sinkhorn(max_iterations=2).solve(problem)
    assert stopped.result is Result.BUDGET_SPENT
    assert stopped.lower_bound is None
    assert stopped.stats["marginal_residual"] > 1e-8
    done = Sinkhorn().solve(problem)
    assert done.result is Result.OPTIMAL
    assert done.stats["marginal_residual"] <= 1e-8


def test_marginals_met_before_the_last_epsilon_are_not_convergence():
    """However the iterations run out: exactly where a stage is done, too."""
    anchor, reference = Schedule(N, (0, 5, 11)), Schedule(N, (0, 1, 3, 4, 8, 13, 15))
    problem = ScheduleProblem(N, 5, anchor=anchor, reference=reference)
    soon = EpsilonSchedule(end=0.1)
    needed = Sinkhorn(epsilon=soon).solve(problem).stats["iterations"]
    met_early = 0
    for limit in range(1, needed + 1):
        stopped = Sinkhorn(epsilon=soon, max_iterations=limit).solve(problem)
        met = stopped.stats["marginal_residual"] <= 1e-8
        assert (stopped.result is Result.OPTIMAL) == (limit == needed)
        met_early += met and limit < needed
    assert met_early > 0  # the first epsilon is met in a few iterations


def test_steps_are_squared_distances_of_indices():
    index = np.arange(N) / N
    expected = np.square(index[:, None] - index)
    np.testing.assert_array_equal(ground_cost("step", ScheduleProblem(N, 1)), expected)


@given(ends(), st.floats(0.3, 3.0), st.sampled_from([1.0, -1.0, 1000.0]))
@settings(max_examples=15, deadline=None)
def test_noise_is_the_squared_difference_of_levels_whatever_their_unit(pair, power, unit):
    s = np.linspace(1.0, 0.0, N + 1) ** power
    cost, other = (
        ground_cost("noise", ScheduleProblem(N, 1, grid=grid)) for grid in (s, unit * s + 1)
    )
    np.testing.assert_allclose(cost, np.square(s[:-1, None] - s[:-1]), atol=1e-12)
    np.testing.assert_allclose(other, cost, atol=1e-9)
    assert cost.max() <= 1
    pi = NetworkSimplex()(*_uniform(*pair), between(cost, *pair))
    ours, best = (_value(p, between(cost, *pair)) for p in (pi, _monotone(*pair)))
    assert ours == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("dim", [1, 3])
def test_trajectory_is_the_distance_of_outputs(dim):
    v = np.random.default_rng(0).standard_normal((N, dim))
    cost = ground_cost("trajectory", ScheduleProblem(N, 1, gram=v @ v.T / dim))
    square = np.square(v[:, None] - v).mean(axis=2)
    np.testing.assert_allclose(cost, square / square.max(), atol=1e-12)
    assert cost.max() == 1
    assert not np.diagonal(cost).any()
    assert (cost >= 0).all()


@given(ends(), st.integers(1, N))
@settings(max_examples=15, deadline=None)
def test_on_an_even_grid_noise_is_step_and_so_are_outputs_that_follow_it(pair, budget):
    s = np.linspace(1.0, 0.0, N + 1)
    outputs = np.outer(s[:-1], [2.0, -1.0])
    problem = ScheduleProblem(
        N, budget, anchor=pair[0], reference=pair[1], gram=outputs @ outputs.T, grid=s
    )
    found = {cost: ExactLP(cost).solve(problem) for cost in ("step", "noise", "trajectory")}
    targets = {cost: np.array(f.schedule.computed) for cost, f in found.items()}
    for cost in ("noise", "trajectory"):  # ties of the rounding may fall either way
        assert np.abs(targets[cost] - targets["step"]).max() <= 1
        assert found[cost].objective == pytest.approx(found["step"].objective, abs=1e-6)


@pytest.mark.parametrize("solver", [ExactLP, Sinkhorn])
@pytest.mark.parametrize("cost", ["noise", "trajectory"])
def test_named_costs_differ_where_the_run_is_not_even(solver, cost):
    toy = ToySampler(num_steps=N, power=3.0)
    pair = Schedule(N, (0, 5, 11)), Schedule(N, (0, 1, 3, 4, 8, 13, 15))
    problem = ScheduleProblem(
        N, 5, None, *pair, gram=Gram.of(toy.trajectories()).matrix, grid=toy.grid
    )
    plain, named = solver().solve(problem), solver(cost).solve(problem)
    assert plain.stats["transport_cost"] != named.stats["transport_cost"]
    assert named.schedule.budget == 5


@pytest.mark.parametrize("solver", [ExactLP, Sinkhorn, Unbalanced])
def test_a_ground_cost_of_another_name_is_refused_when_the_solver_is_made(solver):
    with pytest.raises(OtcacheError, match="or one of step, noise, trajectory, got 'euclidean'"):
        solver(cost="euclidean")


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (np.zeros((3, 3)), r"of shape \(16, 16\)"),
        (np.full((N, N), np.nan), "finite and >= 0"),
        (_distances(2.0) - 1.0, "finite and >= 0"),
        (np.ones((N, N)), "0 on the diagonal"),
    ],
)
def test_bad_ground_costs(cost, message):
    with pytest.raises(OtcacheError, match=message):
        ground_cost(cost, ScheduleProblem(N, 1))


def test_a_program_that_cannot_converge_is_an_error():
    pair = Schedule(N, (0, 5, 11)), Schedule(N, (0, 1, 3, 4, 8, 13, 15))
    cost = between(np.random.default_rng(0).random((N, N)), *pair)
    with pytest.raises(OtcacheError, match="did not converge"):
        NetworkSimplex(max_iterations=1)(*_uniform(*pair), cost)


@pytest.mark.parametrize(
    "bad", [{"start": 0.1, "end": 1.0}, {"end": 0.0}, {"factor": 1.0}, {"factor": 0.0}]
)
def test_bad_epsilon_schedules(bad):
    with pytest.raises(OtcacheError, match="EpsilonSchedule"):
        EpsilonSchedule(**bad)
