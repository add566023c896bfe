"""The least sum of powers against every schedule and against networkx."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, ScheduleProblem
from otcache_solvers.additive.shortest_path import Lexicographic, PeakSuppressed, ShortestPath


def random_costs(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.triu(rng.random((n, n + 1)), k=2)


def total(costs, steps, gamma):
    spans = itertools.pairwise((*steps, len(costs)))
    return math.fsum(float(costs[i, j]) ** gamma for i, j in spans)


@st.composite
def problems(draw):
    n = draw(st.integers(1, 8))
    costs = np.zeros((n, n + 1))
    for i in range(n):
        for j in range(i + 2, n + 1):
            costs[i, j] = draw(st.sampled_from((0.0, 0.5, 1.0, 2.0, 3.5, math.inf)))
    return ScheduleProblem(n, draw(st.integers(1, n)), costs=costs)


@given(problems(), st.sampled_from([0.5, 1.0, 2.5, 4.0]))
@settings(max_examples=60, deadline=None)
def test_no_schedule_has_a_smaller_sum_of_powers(problem, gamma):
    n = problem.num_steps
    every = [(0, *r) for r in itertools.combinations(range(1, n), problem.budget - 1)]
    best = min(total(problem.costs, steps, gamma) for steps in every)
    got = PeakSuppressed(gamma).solve(problem)
    if math.isinf(best):
        assert got.result is Result.INFEASIBLE
        assert got.schedule is None
    else:
        assert got.result is Result.OPTIMAL
        assert got.objective == got.lower_bound == pytest.approx(best)
        assert total(problem.costs, got.schedule.computed, gamma) == pytest.approx(best)


@pytest.mark.parametrize("budget", [1, 5, 11])
def test_networkx_finds_the_same_value_on_the_layered_graph(budget):
    n, costs = 30, random_costs(30)
    graph = nx.DiGraph()
    for i, j in itertools.combinations(range(n + 1), 2):
        for b in range(budget):
            graph.add_edge((b, i), (b + 1, j), weight=costs[i, j] ** 4)
    length = nx.dijkstra_path_length(graph, (0, 0), (budget, n))
    got = PeakSuppressed().solve(ScheduleProblem(n, budget, costs=costs))
    assert got.objective == pytest.approx(length)


def test_its_ends_are_the_sum_and_the_worst_span():
    """max^gamma <= sum <= B max^gamma: the worst span is within B^(1/gamma) of the least one."""
    gamma, budget = 100.0, 5
    for seed in range(10):
        costs = np.where(random_costs(15, seed) > 0, random_costs(15, seed) + 0.1, 0.0)
        problem = ScheduleProblem(15, budget, costs=costs)
        plain, worst = ShortestPath().solve(problem), Lexicographic().solve(problem)
        assert PeakSuppressed(1.0).solve(problem).objective == pytest.approx(plain.objective)
        steps = PeakSuppressed(gamma).solve(problem).schedule.computed
        peak = max(costs[i, j] for i, j in itertools.pairwise((*steps, 15)))
        assert worst.objective <= peak <= worst.objective * budget ** (1 / gamma)


def test_the_frontier_holds_what_each_budget_alone_gives():
    costs = random_costs(12)
    frontier = PeakSuppressed().frontier(ScheduleProblem(12, 12, costs=costs))
    for budget, solution in enumerate(frontier, 1):
        alone = PeakSuppressed().solve(ScheduleProblem(12, budget, costs=costs))
        assert alone.schedule == solution.schedule
        assert alone.schedule.budget == budget
    assert frontier[-1].objective == 0.0


@pytest.mark.parametrize("scale", [1e-60, 1e-30, 1e30])
def test_the_unit_of_the_costs_does_not_matter(scale):
    costs = random_costs(12)
    plain, scaled = (
        PeakSuppressed().solve(ScheduleProblem(12, 4, costs=c)) for c in (costs, costs * scale)
    )
    assert plain.schedule == scaled.schedule


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.inf, math.nan])
def test_a_bad_exponent_is_refused(gamma):
    with pytest.raises(OtcacheError, match="gamma must be above 0 and finite"):
        PeakSuppressed(gamma)
