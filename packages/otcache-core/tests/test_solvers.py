"""Uniform, the prior and brute force: the rules and the oracle."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, ScheduleProblem
from otcache_core.solvers import (
    Additive,
    BruteForce,
    Lexicographic,
    Minimax,
    Objective,
    Prior,
    Uniform,
)
from otcache_core.testing import SolverConformance


class TestUniform(SolverConformance):
    def make_solver(self) -> Uniform:
        return Uniform()


class TestPrior(SolverConformance):
    def make_solver(self) -> Prior:
        return Prior()


class TestBruteForce(SolverConformance):
    def make_solver(self) -> BruteForce:
        return BruteForce()

    def exact_objective(self) -> Objective:
        return Additive()


class TestBruteForceLexicographic(SolverConformance):
    def make_solver(self) -> BruteForce:
        return BruteForce(Lexicographic())

    def exact_objective(self) -> Objective:
        return Lexicographic()


@given(st.integers(1, 60), st.data())
def test_uniform_gaps_differ_by_one_at_most(n: int, data: st.DataObject) -> None:
    b = data.draw(st.integers(1, n))
    solution = Uniform().solve(ScheduleProblem(n, b))
    path = (*solution.schedule.computed, n)
    gaps = [j - i for i, j in itertools.pairwise(path)]
    assert max(gaps) - min(gaps) <= 1
    assert solution.objective == max(gaps) == solution.lower_bound


@pytest.fixture
def problem() -> ScheduleProblem:
    """Three steps by hand: w(0->2) = 3, w(0->3) = 5, w(1->3) = 4, so B = 2 is {0, 2} or {0, 1}."""
    costs = np.zeros((3, 4))
    costs[0, 2], costs[0, 3], costs[1, 3] = 3.0, 5.0, 4.0
    return ScheduleProblem(3, 2, costs)


@pytest.mark.parametrize("objective", [Additive(), Minimax(), Lexicographic(), sum, max])
def test_brute_force_by_hand(problem: ScheduleProblem, objective: Objective) -> None:
    solution = BruteForce(objective).solve(problem)
    assert solution.schedule.computed == (0, 2)
    assert (solution.objective, solution.lower_bound) == (3.0, 3.0)
    assert solution.result is Result.OPTIMAL
    assert solution.stats == {"candidates": 2}
    assert solution.certificate.endswith("of the span costs")


def test_lexicographic_looks_past_the_worst_span() -> None:
    costs = np.zeros((5, 6))
    costs[np.triu_indices(5, k=2, m=6)] = 9.0
    costs[0, 2], costs[2, 5] = 1.0, 2.0
    costs[0, 3], costs[3, 5] = 0.5, 2.0
    solution = BruteForce(Lexicographic()).solve(ScheduleProblem(5, 2, costs))
    assert solution.schedule.computed == (0, 3)
    assert BruteForce(Minimax()).solve(ScheduleProblem(5, 2, costs)).schedule.computed == (0, 2)


def test_no_path_is_a_value() -> None:
    costs = np.full((3, 4), np.inf)
    np.fill_diagonal(costs[:, 1:], 0.0)
    solution = BruteForce().solve(ScheduleProblem(3, 2, costs))
    assert (solution.result, solution.schedule) == (Result.INFEASIBLE, None)
    assert math.isinf(solution.objective)
    assert BruteForce().solve(ScheduleProblem(3, 3, costs)).schedule.budget == 3


def test_too_many_schedules_are_refused_with_advice() -> None:
    costs = np.zeros((50, 51))
    with pytest.raises(OtcacheError) as caught:
        BruteForce().solve(ScheduleProblem(50, 25, costs))
    assert "must be at most 2,000,000, got 63205303218876" in str(caught.value)
    assert "use an exact solver of otcache-solvers, ShortestPath()" in str(caught.value)


def test_costs_are_needed() -> None:
    with pytest.raises(OtcacheError, match="brute-force needs costs, got none"):
        BruteForce().solve(ScheduleProblem(4, 2))
