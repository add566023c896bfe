"""Outcome costs against rollouts written out here; the Gram against einsum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from otcache_core import OtcacheError
from otcache_core.contracts import Evaluation
from otcache_core.testing import ToyEvaluator, ToySampler
from otcache_solvers.costs.displacement import Local
from otcache_solvers.costs.gram import Gram
from otcache_solvers.costs.outcome import Outcome
from otcache_solvers.costs.samples import SampleCosts

SAMPLER = ToySampler(num_steps=7, num_samples=4, power=1.5)


def measure(model, sampler=SAMPLER, evaluator=None):
    return model.measure(sampler.trajectories(), evaluator or sampler.evaluator())


def rollout(sampler, skipped):
    """Plain Euler that keeps its last output on the skipped steps; x_N of every sample."""
    x, v = sampler.start, None
    for i in range(sampler.num_steps):
        v = v if i in skipped else sampler.velocity(x, sampler.grid[i])
        x = x + (sampler.grid[i + 1] - sampler.grid[i]) * v
    return x


class Watching(ToyEvaluator):
    """Keeps the batches it was given."""

    def __init__(self, sampler):
        super().__init__(sampler)
        self.batches = []

    def evaluate(self, schedules, **settings):
        self.batches.append((list(schedules), settings))
        return super().evaluate(schedules, **settings)


def test_every_span_costs_what_its_rollout_says():
    measured = measure(Outcome(samples=3))
    full = rollout(SAMPLER, ())
    for i, j in itertools.combinations(range(8), 2):
        if i < 7:
            gap = np.abs(rollout(SAMPLER, range(i + 1, j)) - full)[:3]
            assert measured.costs[i, j] == pytest.approx(gap.mean(), abs=1e-14)
    assert measured.samples == 3


def test_spans_that_stop_together_run_together_on_the_chosen_samples():
    evaluator = Watching(SAMPLER)
    measure(Outcome(), evaluator=evaluator)
    assert len(evaluator.batches) == SAMPLER.num_steps - 1  # stops 2 .. N
    for schedules, settings in evaluator.batches:
        assert settings["objective"] == "latent-l1"
        assert list(settings["samples"]) == [0, 1]
        first_after_gap = {
            next((k for m, k in enumerate(s.computed) if k != m), SAMPLER.num_steps)
            for s in schedules
        }
        assert len(first_after_gap) == 1
    ran = [s for batch, _ in evaluator.batches for s in batch]
    assert len(ran) == len(set(ran)) == 7 * 6 // 2


def test_a_cap_leaves_longer_spans_infinite_and_costs_less():
    capped, free = measure(Outcome(span_cap=3)), measure(Outcome())
    i, j = np.indices(free.costs.shape)
    assert np.isinf(capped.costs[j - i > 3]).all()
    near = (j > i) & (j - i <= 3)
    np.testing.assert_array_equal(capped.costs[near], free.costs[near])
    assert capped.nfe < free.nfe


def sharded(model, runs_of):
    """Return the shards' tables, two samples here and two there, merged either way round."""
    a, b = (runs_of(model, samples) for samples in ([0, 1], [2, 3]))
    return a.merge(b), b.merge(a)


def locally(model, samples):
    return model.sample_costs([SAMPLER.trajectories()[n] for n in samples])


class OnlySome(ToyEvaluator):
    """The samples of one shard."""

    def __init__(self, samples):
        super().__init__(SAMPLER)
        self.shard = samples

    @property
    def num_samples(self):
        return len(self.shard)

    def evaluate(self, schedules, *, samples=None, **settings):
        own = range(len(self.shard)) if samples is None else samples
        return super().evaluate(schedules, samples=[self.shard[n] for n in own], **settings)


def by_rollouts(model, samples):
    runs = [SAMPLER.trajectories()[n] for n in samples]
    return model.sample_costs(runs, OnlySome(samples))


@pytest.mark.parametrize(
    ("model", "runs_of"),
    [(Local(), locally), (Outcome(samples=4), by_rollouts), (Outcome(4, 3), by_rollouts)],
)
def test_costs_of_shards_merge_to_the_bits_of_the_whole(model, runs_of):
    whole = measure(model)
    for merged in sharded(model, runs_of):
        assert (merged.samples, merged.nfe) == (whole.samples, whole.nfe)
        np.testing.assert_array_equal(merged.span_costs().costs, whole.costs)


def test_costs_that_are_not_of_one_kind_do_not_merge():
    local, outcome = locally(Local(), [0]), by_rollouts(Outcome(), [1])
    with pytest.raises(OtcacheError, match=r"model must be 'local', as the other shard's"):
        local.merge(outcome)
    with pytest.raises(OtcacheError, match=r"num_steps must be 7, as the other shard's, got 3"):
        local.merge(Local().sample_costs(ToySampler(num_steps=3).trajectories()))
    with pytest.raises(OtcacheError, match="omit the same spans"):
        outcome.merge(by_rollouts(Outcome(span_cap=3), [0]))


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 3), (0, 3, 4)])
def test_tables_of_another_shape_are_refused(shape):
    with pytest.raises(OtcacheError, match=r"of shape \(samples, N, N \+ 1\)"):
        SampleCosts("local", np.zeros(shape))


def test_more_samples_than_there_are_means_all():
    assert measure(Outcome(samples=100)).samples == SAMPLER.num_samples


def test_a_cap_of_one_leaves_nothing_to_measure():
    capped = measure(Outcome(span_cap=1))
    assert capped.nfe == 0
    assert np.isinf(capped.costs[0, 2:]).all()


def test_progress_counts_spans_up_to_their_number():
    seen = []
    measure(Outcome(progress=lambda done, total: seen.append((done, total))))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (21, 21)


class Broken(ToyEvaluator):
    def evaluate(self, schedules, **settings):
        ran = super().evaluate(schedules, **settings)
        return Evaluation(ran.schedules, ran.errors * np.nan, ran.nfe, ran.grams)


def test_errors_that_are_not_numbers_are_refused():
    with pytest.raises(OtcacheError, match="NaN or infinity; try float32"):
        measure(Outcome(), evaluator=Broken(SAMPLER))


def test_runs_of_another_step_count_are_refused():
    with pytest.raises(OtcacheError, match=r"num_steps must be one and the same.*\[5, 7\]"):
        measure(Outcome(), evaluator=ToySampler(num_steps=5).evaluator())


@pytest.mark.parametrize("bad", [{"samples": 0}, {"span_cap": 0}])
def test_numbers_below_one_are_refused(bad):
    with pytest.raises(OtcacheError, match=r"must be at least 1, got 0"):
        Outcome(**bad)


def test_the_gram_is_the_mean_inner_product():
    runs = SAMPLER.trajectories()
    outputs = np.stack([t.outputs for t in runs])
    expected = np.einsum("nad,nbd->ab", outputs, outputs) / (len(runs) * outputs.shape[2])
    np.testing.assert_allclose(Gram.of(runs).matrix, expected, rtol=1e-13)


def test_shards_merge_to_the_same_bits_in_any_order():
    runs = SAMPLER.trajectories()
    whole = Gram.of(runs)
    for order in itertools.permutations(range(4)):
        first, *rest = (Gram.of([runs[i]]) for i in order)
        for shard in rest:
            first = first.merge(shard)
        assert first.samples == 4
        np.testing.assert_array_equal(first.matrix, whole.matrix)


def test_grams_of_different_runs_do_not_merge():
    small = Gram.of(ToySampler(num_steps=3).trajectories())
    with pytest.raises(
        OtcacheError, match=r"Gram\.num_steps must be 7, as the other shard's, got 3"
    ):
        Gram.of(SAMPLER.trajectories()).merge(small)
    mixed = [*SAMPLER.trajectories(), *ToySampler(num_steps=3).trajectories()]
    with pytest.raises(OtcacheError, match="one and the same"):
        Gram.of(mixed)


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.ones((0, 2, 2)), np.full((1, 2, 2), np.inf)])
def test_a_malformed_gram_is_refused(bad):
    with pytest.raises(OtcacheError, match="per_sample"):
        Gram(bad)


def test_a_gram_of_nothing_is_refused():
    with pytest.raises(OtcacheError, match="got none"):
        Gram.of([])
