"""The laws of a feature probe as tests."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.probe import FeatureProbe, SampleRequest
from otcache_core.policy import Provenance
from otcache_core.schedule import Schedule
from otcache_core.testing.kit import LEFT, Conformance
from otcache_core.testing.purity import RANDOM, random_state_of, unchanged
from otcache_core.trajectory import Trajectory


class ProbeConformance(Conformance, kit=True):
    """Laws of :class:`~otcache_core.contracts.FeatureProbe`.

    Attributes:
        rtol: relative deviation of a sample recorded alone from one recorded beside others that is
            rounding.
    """

    rtol: float = 1e-4

    @abstractmethod
    def make_probe(self) -> FeatureProbe:
        """A fresh probe."""

    @abstractmethod
    def make_target(self) -> Any:
        """A fresh target; two of them give the same samples."""

    @abstractmethod
    def request(self) -> SampleRequest:
        """At least two samples of different seeds, in batches of two."""

    @abstractmethod
    def final_latents(self, target: Any, request: SampleRequest) -> NDArray[Any]:
        """x_N of the plain target, without the probe, in the same batches; shape (samples, ...)."""

    @abstractmethod
    def traces(self, target: Any) -> Any:
        """Whatever a probe could leave behind (``sorted(vars(module))``, hooks), for comparison."""

    def _record(self, target: Any) -> list[Trajectory]:
        return list(self.make_probe().record(target, self.request()))

    def test_it_supports_its_target_and_says_why_not_another(self) -> None:
        assert self.make_probe().supports(self.make_target()) == ""
        assert self.make_probe().supports(object())

    def test_one_trajectory_a_sample(self) -> None:
        request, trajectories = self.request(), self._record(self.make_target())
        assert len(trajectories) == len(request.prompts)
        for trajectory in trajectories:
            assert trajectory.num_steps == request.num_steps
            assert trajectory.label
            assert sum(trajectory.calls.values()) >= request.num_steps

    def test_observing_changes_nothing_bit_for_bit(self) -> None:
        plain = self.final_latents(self.make_target(), self.request())
        target = self.make_target()
        recorded = [t.states[-1] for t in self._record(target)]
        flat = np.asarray(plain).reshape(len(recorded), -1)
        np.testing.assert_array_equal(np.stack(recorded), flat.astype(recorded[0].dtype))
        np.testing.assert_array_equal(self.final_latents(target, self.request()), plain)

    def test_sampling_is_not_changed_by_recording(self) -> None:
        target, request = self.make_target(), self.request()
        before = self.make_probe().sample(target, request)
        self._record(target)
        after = self.make_probe().sample(target, request)
        assert len(before) == len(request.prompts)
        np.testing.assert_array_equal(after, before)

    def test_nothing_remains(self) -> None:
        target = self.make_target()
        before = self.traces(target)
        self._record(target)
        assert self.traces(target) == before, LEFT

    def test_nothing_remains_when_recording_is_given_up(self) -> None:
        target = self.make_target()
        before = self.traces(target)
        stream = iter(self.make_probe().record(target, self.request()))
        next(stream)
        stream.close() if hasattr(stream, "close") else None
        assert self.traces(target) == before, LEFT

    def test_seeds_make_the_samples(self) -> None:
        """What is recorded, and what is sampled."""
        target, request, probe = self.make_target(), self.request(), self.make_probe()
        other = replace(request, seeds=tuple(seed + 100 for seed in request.seeds))
        for first, second in zip(
            probe.record(target, request), probe.record(target, other), strict=True
        ):
            same = np.array_equal(first.states[0], second.states[0])
            assert not same, "recorded runs begin alike whatever the seed"
        made, others = probe.sample(target, request), probe.sample(target, other)
        for n, seed in enumerate(request.seeds):
            assert not np.array_equal(made[n], others[n]), f"sample {n} ignores its seed {seed}"

    def test_a_sample_does_not_depend_on_its_neighbours(self) -> None:
        """Recorded beside others, or by a request of its own."""
        target, request = self.make_target(), self.request()
        for n, together in enumerate(self._record(target)):
            alone = replace(
                request, prompts=request.prompts[n : n + 1], seeds=request.seeds[n : n + 1]
            )
            (single,) = self.make_probe().record(target, alone)
            for name in ("states", "outputs"):
                x, y = (np.asarray(getattr(t, name), dtype=np.float64) for t in (together, single))
                off = np.linalg.norm(x - y) / np.linalg.norm(y)
                assert off <= self.rtol, f"{name} of sample {n} are {off:.2g} off beside others"

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        """Or as a plain run leaves it."""
        target, request = self.make_target(), self.request()
        self._record(target)
        plain = random_state_of(lambda: self.final_latents(target, request))
        assert random_state_of(lambda: self._record(target)) == plain, RANDOM

    def test_the_evaluator_leaves_trajectories_as_they_are(self) -> None:
        target, request = self.make_target(), self.request()
        trajectories = self._record(target)
        with unchanged(trajectories=trajectories):
            evaluator = self.make_probe().evaluator(target, request, trajectories)
            evaluator.evaluate([Schedule(request.num_steps, (0, 1))])

    def test_recording_twice_gives_the_same(self) -> None:
        """Of one probe that records other samples in between."""
        target, request, probe = self.make_target(), self.request(), self.make_probe()
        once = list(probe.record(target, request))
        list(probe.record(target, replace(request, seeds=tuple(s + 100 for s in request.seeds))))
        for first, second in zip(once, probe.record(target, request), strict=True):
            np.testing.assert_array_equal(first.states, second.states)
            np.testing.assert_array_equal(first.outputs, second.outputs)

    def test_provenance_has_the_keys_of_a_policy(self) -> None:
        target = self.make_target()
        facts = self.make_probe().provenance(target, self.request())
        grid = self._record(target)[0].grid.tolist()
        provenance = Provenance.from_dict({**facts, "grid": grid})
        assert provenance.model_class
        assert provenance.num_steps == self.request().num_steps
        assert provenance.check(facts, strict=True) == []

    def test_provenance_is_known_without_a_request_too(self) -> None:
        target = self.make_target()
        facts = self.make_probe().provenance(target, self.request())
        bare = self.make_probe().provenance(target, None)
        assert bare["model_class"] == facts["model_class"]

    def test_a_request_that_is_prepared_stays_as_it_is(self) -> None:
        target, probe = self.make_target(), self.make_probe()
        once = probe.prepared(target, self.request())
        assert len(once.prompts) == len(once.seeds) == len(self.request().prompts)
        assert probe.prepared(target, once) == once

    def test_the_evaluator_finds_no_error_where_everything_is_computed(self) -> None:
        target, request = self.make_target(), self.request()
        trajectories = self._record(target)
        evaluator = self.make_probe().evaluator(target, request, trajectories)
        n = request.num_steps
        schedules = [Schedule.full(n), Schedule(n, (0, n // 2))]
        first, second = (evaluator.evaluate(schedules) for _ in range(2))
        assert evaluator.num_samples == len(trajectories)
        assert (first.errors[0] == 0).all()
        assert (first.errors[1] > 0).all()
        np.testing.assert_array_equal(first.errors, second.errors)
