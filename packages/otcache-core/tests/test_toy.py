"""The toy sampler: an evaluator whose numbers can be checked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.contracts import Evaluator
from otcache_core.forecasters import Fitted, Linear, Reuse, VariableOrder
from otcache_core.playback import Playback, playback_table
from otcache_core.testing import EvaluatorConformance, ToySampler

Floats = NDArray[np.float64]
N = 10
SOME = Schedule(N, (0, 1, 3, 6))


@pytest.fixture
def sampler() -> ToySampler:
    return ToySampler(num_steps=N, num_samples=2)


def test_trajectories_follow_the_sampler(sampler: ToySampler) -> None:
    for trajectory in sampler.trajectories():
        moved = trajectory.states[:-1] + np.diff(trajectory.grid)[:, None] * trajectory.outputs
        np.testing.assert_array_equal(trajectory.states[1:], moved)


def test_computing_everything_has_no_error(sampler: ToySampler) -> None:
    done = sampler.evaluator().evaluate([Schedule.full(N), SOME])
    assert (done.errors[0] == 0).all()
    assert (done.errors[1] > 0).all()
    assert done.nfe == 2 * (N + 4)
    assert (done.gram[0] == 0).all()


def test_reuse_is_sampling_on_the_sub_grid(sampler: ToySampler) -> None:
    """docs/theory.md, section 2: the end state equals Euler on {s_k : k in S} and s_N."""
    coarse = sampler.start
    points = SOME.to_sigmas(sampler.grid)
    for s, after in itertools.pairwise(points):
        coarse = coarse + (after - s) * sampler.velocity(coarse, s)
    full = np.stack([t.states[-1] for t in sampler.trajectories()])
    wanted = np.sqrt(((coarse - full) ** 2).mean(-1))
    got = sampler.evaluator().evaluate([SOME]).errors[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_the_gram_is_of_the_final_errors(sampler: ToySampler) -> None:
    others = [SOME, Schedule(N, (0, 5))]
    done = sampler.evaluator().evaluate(others)
    np.testing.assert_allclose(np.diagonal(done.gram), (done.errors**2).mean(-1), rtol=1e-12)
    np.testing.assert_array_equal(done.gram, done.gram.T)


def test_the_same_call_gives_the_same_numbers(sampler: ToySampler) -> None:
    first, second = (sampler.evaluator().evaluate([SOME], fit=True) for _ in range(2))
    np.testing.assert_array_equal(first.errors, second.errors)
    assert first.schedules == second.schedules


@pytest.mark.parametrize("memory", [1, 2, 3])
def test_the_fit_lowers_the_error_and_its_weights_reproduce_it(
    sampler: ToySampler, memory: int
) -> None:
    evaluator = sampler.evaluator(memory)
    reuse, fit = evaluator.evaluate([SOME]), evaluator.evaluate([SOME], fit=True)
    assert fit.errors.mean() < reuse.errors.mean()
    (schedule,) = fit.schedules
    assert schedule.memory == memory
    assert schedule.weights[0] == (0.0,)  # step 1 is computed: nothing to weigh
    np.testing.assert_allclose(evaluator.evaluate([schedule]).errors, fit.errors, rtol=1e-12)


def test_linear_beats_reuse_on_a_smooth_field(sampler: ToySampler) -> None:
    even = Schedule(N, (0, 2, 4, 6, 8))
    linear = Schedule(N, even.computed, forecaster="linear")
    errors = sampler.evaluator().evaluate([even, linear]).errors.mean(-1)
    assert errors[1] < errors[0]


def test_samples_and_objectives_can_be_chosen(sampler: ToySampler) -> None:
    evaluator = sampler.evaluator()
    both = evaluator.evaluate([SOME], objective="latent-l1")
    one = evaluator.evaluate([SOME], objective="latent-l1", samples=[1])
    np.testing.assert_array_equal(one.errors[:, 0], both.errors[:, 1])
    assert one.nfe == 4
    with pytest.raises(OtcacheError, match="objective must be one of latent-rmse, latent-l1"):
        evaluator.evaluate([SOME], objective="lpips")
    with pytest.raises(OtcacheError, match=r"schedule\.num_steps must be 10, got 3"):
        evaluator.evaluate([Schedule.full(3)])


class TestToyEvaluator(EvaluatorConformance):
    """The kit on the toy, whose accelerated runs are made by hand here."""

    toy = ToySampler(num_steps=N, num_samples=2)

    def make_evaluator(self) -> Evaluator:
        return self.toy.evaluator()

    def accelerated_errors(self, schedule: Schedule) -> Floats:
        rules = {
            "reuse": Reuse(),
            "linear": Linear(),
            "fitted": Fitted(),
            "variable-order": VariableOrder(),
            "variable-order-flow": VariableOrder(flow=True),
        }
        rule = rules[schedule.forecaster]
        grid, x = self.toy.grid, self.toy.start
        playback = Playback(playback_table(schedule, rule, grid))
        playback.begin()
        for t in range(schedule.num_steps):
            v = playback.forecast("", t)
            if v is None:
                v = self.toy.velocity(x, grid[t])
                playback.keep("", t, v)
            x = x + (grid[t + 1] - grid[t]) * v
        full = np.stack([t.states[-1] for t in self.toy.trajectories()])
        return np.asarray(np.sqrt(((x - full) ** 2).mean(-1)))
