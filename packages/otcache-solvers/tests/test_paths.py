"""Solvers of span costs against every schedule and against networkx."""

from __future__ import annotations

import itertools
import math
import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, ScheduleProblem
from otcache_solvers.additive.shortest_path import Lexicographic, ShortestPath


def every_schedule(n, budget):
    return [(0, *rest) for rest in itertools.combinations(range(1, n), budget - 1)]


def span_costs(costs, steps):
    return [float(costs[i, j]) for i, j in itertools.pairwise((*steps, len(costs)))]


def worst_first(costs, steps):
    return sorted(span_costs(costs, steps), reverse=True)


def random_costs(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.triu(rng.random((n, n + 1)), k=2)


@st.composite
def problems(draw, values=(0.0, 1.0, 2.0, 3.5, math.inf)):
    """Few distinct values, so that ties are common, and spans that may not be used."""
    n = draw(st.integers(1, 8))
    budget = draw(st.integers(1, n))
    costs = np.zeros((n, n + 1))
    for i in range(n):
        for j in range(i + 2, n + 1):
            costs[i, j] = draw(st.sampled_from(values))
    return ScheduleProblem(n, budget, costs=costs)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_lexicographic_has_the_least_sorted_vector_of_all_schedules(problem):
    n, costs = problem.num_steps, problem.costs
    best = min(worst_first(costs, s) for s in every_schedule(n, problem.budget))
    got = Lexicographic().solve(problem)
    if math.isinf(best[0]):
        assert got.result is Result.INFEASIBLE
        assert got.schedule is None
        assert got.objective == math.inf
    else:
        assert worst_first(costs, got.schedule.computed) == best
        assert got.stats["span_costs"] == best
        assert got.objective == got.lower_bound == best[0]
        assert got.result is Result.OPTIMAL


@given(problems())
@settings(max_examples=60, deadline=None)
def test_shortest_path_has_the_least_sum_of_all_schedules(problem):
    candidates = every_schedule(problem.num_steps, problem.budget)
    best = min(math.fsum(span_costs(problem.costs, s)) for s in candidates)
    got = ShortestPath().solve(problem)
    assert got.objective == pytest.approx(best)
    assert (got.schedule is None) == math.isinf(best)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6).flatmap(
        lambda x: st.tuples(
            st.just(x), st.lists(st.integers(0, 4), min_size=len(x), max_size=len(x))
        )
    ),
    st.integers(0, 4),
)
def test_inserting_the_same_cost_keeps_the_order_of_sorted_vectors(pair, w):
    """Bellman's principle, as the docstring argues it."""
    x, y = (sorted(v, reverse=True) for v in pair)
    x_w, y_w = (sorted([*v, w], reverse=True) for v in (x, y))
    assert (x < y) == (x_w < y_w)
    padded = [math.inf, *x, -math.inf]
    formula = [max(padded[m + 1], min(w, padded[m])) for m in range(len(x) + 1)]
    assert formula == x_w


@pytest.mark.parametrize("budget", [5, 11, 18])
def test_the_worst_span_is_the_bottleneck_that_networkx_finds(budget):
    """The least threshold under which the layered span graph still has a path of B spans."""
    n, costs = 40, random_costs(40)

    def connected(threshold):
        graph = nx.DiGraph()
        for i, j in itertools.combinations(range(n + 1), 2):
            if i < n and costs[i, j] <= threshold:
                graph.add_edges_from(((b, i), (b + 1, j)) for b in range(budget))
        return graph.has_node((budget, n)) and nx.has_path(graph, (0, 0), (budget, n))

    objective = Lexicographic().solve(ScheduleProblem(n, budget, costs=costs)).objective
    assert connected(objective)
    assert not connected(np.nextafter(objective, 0.0))


def test_the_frontier_holds_what_each_budget_alone_gives():
    costs = random_costs(12)
    frontier = Lexicographic().frontier(ScheduleProblem(12, 12, costs=costs))
    for budget, solution in enumerate(frontier, 1):
        alone = Lexicographic().solve(ScheduleProblem(12, budget, costs=costs))
        assert alone.schedule == solution.schedule
        assert alone.schedule.budget == budget
    assert frontier[-1].objective == 0.0


def test_ties_are_broken_by_the_smallest_step():
    flat = np.triu(np.ones((6, 7)), k=2)
    solution = Lexicographic().solve(ScheduleProblem(6, 3, costs=flat))
    assert solution.schedule.computed == (0, 1, 2)


def test_ignored_entries_are_ignored():
    costs = random_costs(7)
    noisy = costs + np.tril(np.full(costs.shape, np.nan))
    for solver in (Lexicographic(), ShortestPath()):
        clean, other = (solver.solve(ScheduleProblem(7, 3, costs=c)) for c in (costs, noisy))
        assert clean.schedule == other.schedule


@pytest.mark.remedy("Raise the budget or the span cap", value=True)
def test_a_cap_below_n_over_b_is_infeasible_and_says_what_to_do():
    i, j = np.indices((10, 11))
    costs = np.where(j - i > 3, np.inf, random_costs(10))
    for solver in (Lexicographic(), ShortestPath()):
        assert solver.solve(ScheduleProblem(10, 3, costs=costs)).result is Result.INFEASIBLE
        assert solver.solve(ScheduleProblem(10, 4, costs=costs)).schedule is not None
        wider = np.where(j - i > 4, np.inf, costs)
        wider[j - i == 4] = 1.0
        assert solver.solve(ScheduleProblem(10, 3, costs=wider)).schedule is not None
    assert "Raise the budget or the span cap" in Result.INFEASIBLE.value


@pytest.mark.parametrize("solver", [Lexicographic(), ShortestPath()])
def test_missing_costs_are_named(solver):
    with pytest.raises(OtcacheError, match=r"needs span costs, got none: measure them"):
        solver.solve(ScheduleProblem(5, 2))


@pytest.mark.parametrize("ties", [False, True])
def test_all_budgets_of_fifty_steps_take_less_than_two_seconds(ties):
    costs = np.ceil(random_costs(50) * 3) if ties else random_costs(50)
    began = time.perf_counter()
    assert len(Lexicographic().frontier(ScheduleProblem(50, 50, costs=costs))) == 50
    assert time.perf_counter() - began < 2.0
