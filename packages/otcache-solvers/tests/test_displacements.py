"""Displacements against rollouts by hand, and against what they become in a linear world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otcache_core import OtcacheError, Schedule
from otcache_core.testing import ToySampler
from otcache_solvers.costs.displacement import Displacement, Local
from otcache_solvers.costs.propagation import Exact, Propagation, ScalarGain

TOY = ToySampler(num_steps=7, num_samples=3)


class Unpropagated(Propagation):
    """d(i -> j) = delta(i -> j): what was read off the recorded runs."""

    description = "none"

    def grams(self, deviations, evaluator):
        return deviations.local, 0


def _measure(propagation, toy=TOY, **settings):
    model = Displacement(propagation, **settings)
    return model.displacements(toy.trajectories(), toy.evaluator())


def test_exact_displacements_are_those_of_whole_runs():
    found = _measure(Exact())
    for (i, j), square in zip(found.spans, np.diagonal(found.matrix), strict=True):
        schedule = Schedule(7, (*range(i + 1), *range(j, 7)))
        errors = TOY.evaluator().evaluate([schedule]).errors[0]
        assert square == pytest.approx((errors**2).mean(), rel=1e-9)


def test_without_propagation_it_is_the_step_over_the_span():
    found = _measure(Unpropagated())
    for (i, j), square in zip(found.spans, np.diagonal(found.matrix), strict=True):
        far = [
            ((t.states[i] + (t.grid[j] - t.grid[i]) * t.outputs[i] - t.states[j]) ** 2).mean()
            for t in TOY.trajectories()
        ]
        assert square == pytest.approx(np.mean(far), rel=1e-9)


def test_in_one_linear_dimension_one_gain_a_step_is_exact():
    toy = ToySampler(num_steps=7, num_samples=2, dim=1, nonlinearity=0.0)
    exact, scalar = (_measure(p, toy).matrix for p in (Exact(), ScalarGain(steps=20, length=2)))
    np.testing.assert_allclose(scalar, exact, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("propagation", [Exact(), Unpropagated(), ScalarGain()])
def test_the_sum_of_displacements_is_the_error_where_everything_is_linear(propagation):
    """Exact only where spans do not meet; the bound is loose for the cheap propagations."""
    toy = ToySampler(num_steps=6, num_samples=2, nonlinearity=0.0)
    found = _measure(propagation, toy)
    alone = found.index[1, 4]
    error = toy.evaluator().evaluate([Schedule(6, (0, 1, 4, 5))]).errors[0]
    measured = np.sqrt(found.matrix[alone, alone])
    tight = 1e-9 if isinstance(propagation, Exact) else 1.0
    assert measured == pytest.approx(np.sqrt((error**2).mean()), rel=tight)


@pytest.mark.parametrize("propagation", [Unpropagated(), ScalarGain()])
def test_shards_merge_to_the_same_bits(propagation):
    toy = ToySampler(num_steps=5, num_samples=1)
    found = _measure(propagation, toy)
    both, other = found.merge(found), found.merge(found)
    np.testing.assert_array_equal(both.matrix, other.matrix)
    np.testing.assert_array_equal(both.matrix, found.matrix)
    assert both.samples == 2
    assert both.nfe == 2 * found.nfe


def test_a_span_cap_forbids_longer_spans():
    costs = Displacement(Unpropagated(), span_cap=3).measure(TOY.trajectories()).costs
    assert np.isfinite(costs[0, 3])
    assert costs[0, 4] == np.inf


def test_a_propagation_that_runs_the_pipeline_needs_it():
    with pytest.raises(OtcacheError, match="got no evaluator"):
        Displacement().measure(TOY.trajectories())


def test_outputs_that_hardly_change_are_no_trouble():
    """The local Gram is then a difference of numbers 1e16 times its size."""
    toy = TOY.trajectories()
    still = [replace(t, outputs=np.ones_like(t.outputs) + 1e-9 * t.outputs) for t in toy]
    found = Displacement(Unpropagated()).displacements(still)
    assert (np.diagonal(found.matrix) >= 0).all()


def test_local_costs_are_the_step_over_the_span():
    toy = TOY.trajectories()
    far = [np.abs(t.states[2] + (t.grid[6] - t.grid[2]) * t.outputs[2] - t.states[6]) for t in toy]
    assert Local().measure(toy).costs[2, 6] == pytest.approx(np.mean(far), rel=1e-12)
