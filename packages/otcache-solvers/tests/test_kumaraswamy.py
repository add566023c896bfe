"""The warp family against its limits and scipy's least squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from otcache_core import Schedule
from otcache_core.transport import quantile_function
from otcache_solvers.search.tpe_search import LIMITS, Kumaraswamy

logs = st.floats(*LIMITS)


@given(logs, logs, st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_every_warp_gives_a_schedule_of_every_budget(log_a, log_b, budget):
    schedule = Kumaraswamy(log_a, log_b).schedule(20, budget)
    assert (schedule.num_steps, schedule.budget) == (20, budget)


@given(logs, logs)
@settings(max_examples=50, deadline=None)
def test_it_is_a_quantile_function(log_a, log_b):
    q = Kumaraswamy(log_a, log_b)(np.linspace(0, 1, 50))
    assert q[0] == 0.0
    assert q[-1] == 1.0
    assert (np.diff(q) >= 0).all()


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_the_identity_is_the_uniform_schedule(n, budget):
    budget = min(n, budget)
    steps = Kumaraswamy().schedule(n, budget).computed
    assert np.abs(np.array(steps) - n * np.arange(budget) / budget).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "computed", [(0, 1, 3, 7, 14, 21, 28, 35, 42), (0, 10, 20, 30, 40), (0, 1, 2, 3, 5, 20)]
)
def test_the_nearest_warp_is_as_near_as_scipy_finds(computed):
    schedule = Schedule(num_steps=50, computed=computed)
    u = np.linspace(0, 1, 65)
    target = quantile_function(schedule)(u)

    def misfit(log_a_b):
        return Kumaraswamy(*log_a_b)(u) - target

    scipy_fit = least_squares(misfit, [0.0, 0.0], bounds=(-1.5, 1.5))
    found = Kumaraswamy.nearest(schedule)
    ours = np.square(misfit((found.log_a, found.log_b))).sum()
    assert ours <= 2 * scipy_fit.cost * 1.05 + 1e-3  # the grid's spacing


def test_a_schedule_of_the_family_is_recovered():
    original = Kumaraswamy(log_a=0.5, log_b=-0.3).schedule(60, 12)
    nearest = Kumaraswamy.nearest(original)
    assert np.abs(np.subtract(nearest.schedule(60, 12).computed, original.computed)).max() <= 2
