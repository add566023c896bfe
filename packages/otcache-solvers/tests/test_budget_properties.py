"""When one more computed step can only help, and when it cannot be relied on.

Costs are monotone if a span costs at least what every span inside it costs. A schedule of B < N
steps has a span of two steps or more; computing its second step too leaves a span of length one,
which is free, and a shorter one, which costs no more. So every objective that is monotone in the
span costs falls or stays from B to B + 1.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import ScheduleProblem
from otcache_solvers.additive.shortest_path import Lexicographic, PeakSuppressed, ShortestPath

SOLVERS = [ShortestPath(), Lexicographic(), PeakSuppressed(4.0)]


@st.composite
def monotone_costs(draw):
    """Each span: the larger of the two spans one step shorter, plus something at least 0."""
    n = draw(st.integers(2, 8))
    costs = np.zeros((n, n + 1))
    for length in range(2, n + 1):
        for i in range(n + 1 - length):
            inside = max(costs[i, i + length - 1], costs[i + 1, i + length])
            costs[i, i + length] = inside + draw(st.sampled_from((0.0, 0.1, 1.0, 7.0)))
    return costs


def objectives(solver, costs):
    n = len(costs)
    return [solver.solve(ScheduleProblem(n, b, costs=costs)).objective for b in range(1, n + 1)]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@given(costs=monotone_costs())
@settings(max_examples=20, deadline=None)
def test_with_monotone_costs_no_objective_rises_with_the_budget(solver, costs):
    values = objectives(solver, costs)
    for fewer, more in itertools.pairwise(values):
        assert more <= fewer * (1 + 1e-12)
    assert values[-1] == 0.0


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_without_monotone_costs_a_larger_budget_can_be_worse(solver):
    """N = 3: the whole run skipped at once is free (its errors cancel), its parts are not.

    B = 1: (0 -> 3) costs 0. B = 2: (0 -> 1), (1 -> 3) or (0 -> 2), (2 -> 3): 1 either way. B = 3: 0.
    """
    costs = np.zeros((3, 4))
    costs[0, 2] = costs[1, 3] = 1.0
    assert objectives(solver, costs) == [0.0, 1.0, 0.0]
