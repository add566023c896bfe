"""The quantile solver against its properties and an enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import make_interp_spline

from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_solvers.transport.quantile import Quantile


@st.composite
def endpoint_pairs(draw):
    n = draw(st.integers(4, 11))
    budgets = draw(st.tuples(st.integers(1, n - 1), st.integers(1, n - 1)))
    steps = [
        (0, *sorted(draw(st.permutations(range(1, n)))[: max(0, b - 1)])) for b in sorted(budgets)
    ]
    return [Schedule(num_steps=n, computed=s) for s in steps]


def solve(ends, budget):
    anchor, reference = ends
    problem = ScheduleProblem(anchor.num_steps, budget, anchor=anchor, reference=reference)
    return Quantile().solve(problem)


def warp(schedule, u):
    """Q_S through scipy's linear spline."""
    nodes = np.linspace(0, 1, schedule.budget + 1)
    values = np.array([*schedule.computed, schedule.num_steps]) / schedule.num_steps
    return make_interp_spline(nodes, values, k=1)(u)


@given(endpoint_pairs())
@settings(max_examples=20, deadline=None)
def test_no_schedule_is_nearer_to_the_interpolated_warp(ends):
    anchor, reference = ends
    n = anchor.num_steps
    for budget in range(anchor.budget + 1, reference.budget):
        a, b, r = 1 / anchor.budget, 1 / budget, 1 / reference.budget
        lam = (a - b) / (a - r)
        u = np.arange(budget) / budget
        target = n * ((1 - lam) * warp(anchor, u) + lam * warp(reference, u))
        best = min(
            np.square(np.array([0, *rest]) - target).sum()
            for rest in itertools.combinations(range(1, n), budget - 1)
        )
        solution = solve(ends, budget)
        assert solution.objective == pytest.approx(best, abs=1e-6)
        assert solution.stats["lam"] == pytest.approx(lam)


@given(endpoint_pairs())
@settings(max_examples=20, deadline=None)
def test_endpoints_come_back_as_they_are_and_the_extremes_are_forced(ends):
    anchor, reference = ends
    n = anchor.num_steps
    if anchor.budget < reference.budget:
        assert solve(ends, reference.budget).schedule is reference
    assert solve(ends, anchor.budget).schedule is anchor
    assert solve(ends, anchor.budget).objective == pytest.approx(0.0, abs=1e-12)
    assert solve(ends, 1).schedule.computed == (0,)
    assert solve(ends, n).schedule.computed == tuple(range(n))


def test_an_endpoint_keeps_its_weights():
    anchor = Schedule(num_steps=9, computed=(0, 4)).with_weights([(0.1,), (0.2, 0.3)])
    reference = Schedule(num_steps=9, computed=(0, 1, 2, 5))
    assert solve((anchor, reference), 2).schedule.weights == anchor.weights


@pytest.mark.parametrize("missing", ["anchor", "reference"])
def test_a_missing_endpoint_is_named(missing):
    ends = {name: Schedule(num_steps=6, computed=(0, 3)) for name in ("anchor", "reference")}
    ends.pop(missing)
    with pytest.raises(OtcacheError, match=f"got no {missing}"):
        Quantile().solve(ScheduleProblem(6, 2, **ends))
