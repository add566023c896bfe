"""Conformance tests of a feature probe, which records full runs, and of the evaluator that it makes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.contracts.execution import FeatureProbe, SampleRequest
from otcache_core.errors import shown
from otcache_core.policy import Provenance
from otcache_core.schedule import Schedule
from otcache_core.testing.assertions import (
    LEFT,
    OTHER,
    RANDOM,
    assert_equal,
    assert_near,
    check_reasons,
    random_state_of,
    unchanged,
)
from otcache_core.testing.kit import Conformance, refused
from otcache_core.trajectory import Trajectory


class ProbeConformance(Conformance, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.FeatureProbe`.

    Attributes:
        rtol: relative deviation of a sample recorded alone from one recorded beside others that is
            rounding.
    """

    rtol: float = 1e-4

    @abstractmethod
    def make_probe(self) -> FeatureProbe:
        """Return a fresh probe."""

    @abstractmethod
    def make_target(self) -> Any:
        """Return a fresh target; two of them give the same samples."""

    @abstractmethod
    def request(self) -> SampleRequest:
        """Return a request for at least two samples of different seeds, in batches of two."""

    @abstractmethod
    def final_latents(self, target: Any, request: SampleRequest) -> NDArray[Any]:
        """Return x_N of the plain target, without the probe, in the same batches; shape (samples, ...)."""

    @abstractmethod
    def traces(self, target: Any) -> Any:
        """Return what a probe could leave behind (``sorted(vars(module))``, hooks), for comparison."""

    def _record(self, target: Any) -> list[Trajectory]:
        return list(self.make_probe().record(target, self.request()))

    def test_it_supports_its_target_and_says_why_not_another(self) -> None:
        probe = self.make_probe()
        check_reasons(probe.supports(self.make_target()), probe.supports(object()))

    def test_one_trajectory_a_sample(self) -> None:
        request, trajectories = self.request(), self._record(self.make_target())
        count, steps = len(request.prompts), request.num_steps
        assert len(trajectories) == count, (
            f"{len(trajectories)} trajectories are given: yield {count}"
        )
        for trajectory in trajectories:
            made, calls = trajectory.num_steps, sum(trajectory.calls.values())
            assert made == steps, f"a trajectory has {made} steps of {steps}: record every step"
            assert trajectory.label, "a trajectory has no label: give its prompt and seed"
            assert calls >= steps, f"{calls} calls are reported of {steps} steps: count each call"

    def test_observing_changes_nothing_and_nothing_remains(self) -> None:
        plain = self.final_latents(self.make_target(), self.request())
        target = self.make_target()
        before = self.traces(target)
        recorded = [t.states[-1] for t in self._record(target)]
        assert self.traces(target) == before, LEFT
        flat = np.asarray(plain).reshape(len(recorded), -1)
        what = "the last recorded states are not what the plain target gives: change nothing on the way"
        assert_equal(np.stack(recorded), flat.astype(recorded[0].dtype), what)
        assert_equal(self.final_latents(target, self.request()), plain, OTHER)

    def test_sampling_is_not_changed_by_recording(self) -> None:
        target, request = self.make_target(), self.request()
        before = self.make_probe().sample(target, request)
        self._record(target)
        after = self.make_probe().sample(target, request)
        count = len(request.prompts)
        assert len(before) == count, f"sample() gives {len(before)} of {count} samples: return each"
        assert_equal(after, before, OTHER)

    def test_nothing_remains_when_recording_is_given_up(self) -> None:
        target = self.make_target()
        before = self.traces(target)
        stream = iter(self.make_probe().record(target, self.request()))
        next(stream)
        getattr(stream, "close", lambda: None)()
        assert self.traces(target) == before, LEFT

    def test_seeds_make_the_samples(self) -> None:
        """What is recorded, and what is sampled."""
        target, request, probe = self.make_target(), self.request(), self.make_probe()
        other = replace(request, seeds=tuple(seed + 100 for seed in request.seeds))
        for first, second in zip(
            probe.record(target, request), probe.record(target, other), strict=True
        ):
            same = np.array_equal(first.states[0], second.states[0])
            assert not same, "recorded runs begin alike whatever the seed: pass the seeds on"
        made, others = probe.sample(target, request), probe.sample(target, other)
        for n, seed in enumerate(request.seeds):
            same = np.array_equal(made[n], others[n])
            assert not same, f"sample {n} ignores its seed {seed}: pass the seeds on"

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
                assert off <= self.rtol, (
                    f"{name} of sample {n} are {off:.2g} off beside others: "
                    "record each row of a batch as its own"
                )

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
            for name in ("states", "outputs"):
                what = f"{name} differ when recorded again: keep nothing between calls"
                assert_equal(getattr(second, name), getattr(first, name), what)

    def test_provenance_has_the_keys_of_a_policy(self) -> None:
        """And names the same class without a request."""
        target = self.make_target()
        facts = self.make_probe().provenance(target, self.request())
        bare = self.make_probe().provenance(target, None)
        assert bare.get("model_class") == facts.get("model_class"), (
            f"model_class is {shown(bare.get('model_class'))} without a request: give the same as with one"
        )
        grid = self._record(target)[0].grid.tolist()
        provenance = Provenance.from_dict({**facts, "grid": grid})
        assert provenance.model_class, (
            "no model_class in provenance: name the class of the denoiser"
        )
        steps, wanted = provenance.num_steps, self.request().num_steps
        assert steps == wanted, f"provenance has num_steps = {steps}: give the requested {wanted}"
        differences = provenance.check(facts, strict=True)
        assert differences == [], (
            f"provenance does not fit itself ({shown(differences)}): give plain data that is the same "
            "each time"
        )

    def test_a_request_that_is_prepared_stays_as_it_is(self) -> None:
        target, probe = self.make_target(), self.make_probe()
        once = probe.prepared(target, self.request())
        count = len(self.request().prompts)
        assert len(once.prompts) == len(once.seeds) == count, (
            f"prepared() gives {len(once.prompts)} prompts and {len(once.seeds)} seeds of {count} samples: "
            "keep each sample"
        )
        again = probe.prepared(target, once)
        assert again == once, "prepared() changes what it has prepared: return that as it is"

    def test_the_evaluator_finds_no_error_if_everything_is_computed(self) -> None:
        target, request = self.make_target(), self.request()
        trajectories = self._record(target)
        evaluator = self.make_probe().evaluator(target, request, trajectories)
        n = request.num_steps
        schedules = [Schedule.full(n), Schedule(n, (0, n // 2))]
        first, second = (evaluator.evaluate(schedules) for _ in range(2))
        found, count = evaluator.num_samples, len(trajectories)
        assert found == count, (
            f"the evaluator has {found} samples of {count}: take all trajectories"
        )
        full, some = first.errors
        assert (full == 0).all(), f"the full run has errors {shown(full)}: give 0"
        assert (some > 0).all(), f"runs that skip steps have errors {shown(some)}: measure them"
        assert_equal(
            second.errors, first.errors, "errors differ once and again: keep no state between calls"
        )


STATE = "keep nothing from one call to the next that changes a result"


class EvaluatorConformance(Conformance, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.Evaluator`, made of recorded runs.

    Attributes:
        rtol: relative difference of two errors that is rounding.
        deviation: relative deviation of a replayed result that is rounding.
    """

    rtol: float = 1e-3
    deviation: float = 1e-5

    @abstractmethod
    def make_evaluator(self) -> Evaluator:
        """Return a fresh evaluator over at least two samples; two of them measure the same."""

    @abstractmethod
    def accelerated_errors(self, schedule: Schedule) -> NDArray[np.float64]:
        """Return the error of a real accelerated run of every sample, by the default objective.

        The plain target is run in full and with the executor, without the evaluator.
        """

    def num_evaluations(self) -> int | None:
        """Return how often the denoiser was called so far, None if nobody counts."""
        return None

    def _schedules(self, evaluator: Evaluator) -> list[Schedule]:
        n = len(evaluator.grid) - 1
        steps = [(0, n // 2), (0, 1, n // 2), (0, 1, n // 3, n // 2, n - 2)]
        return [Schedule(n, tuple(sorted(set(computed)))) for computed in steps]

    def _evaluated(self) -> tuple[Evaluator, list[Schedule]]:
        """Return a fresh evaluator, and schedules for it."""
        evaluator = self.make_evaluator()
        return evaluator, self._schedules(evaluator)

    def test_recorded_outputs_end_in_the_recorded_result(self) -> None:
        evaluator = self.make_evaluator()
        evaluator.replay([0])
        before = self.num_evaluations()
        largest = [row % evaluator.num_samples for row in range(evaluator.largest_batch)]
        for rows in ([0], [evaluator.num_samples - 1], [0, 0, 1], largest):
            deviations = evaluator.replay(rows)
            shape = deviations.shape
            assert shape == (len(rows),), (
                f"replay({rows}) has shape {shape}: give one number per row"
            )
            assert (deviations <= self.deviation).all(), (
                f"recorded outputs of rows {rows} end {shown(deviations)} off the recorded result: step as "
                "the sampler does"
            )
        assert self.num_evaluations() == before, "replay calls the denoiser: take recorded outputs"

    def test_errors_are_those_of_accelerated_runs(self) -> None:
        evaluator = self.make_evaluator()
        schedules = [
            Schedule(s.num_steps, s.computed, name)
            for s in self._schedules(evaluator)
            for name in ("reuse", "linear", "variable-order", "variable-order-flow")
        ]
        found = evaluator.evaluate(schedules)
        for schedule, errors in zip(found.schedules, found.errors, strict=True):
            real = self.accelerated_errors(schedule)
            what = f"errors of {schedule} are not those of accelerated runs: measure what an executor does"
            assert_near(errors, real, what, rtol=self.rtol)

    def test_fitted_errors_are_those_of_runs_with_each_samples_weights(self) -> None:
        evaluator = self.make_evaluator()
        found = evaluator.evaluate(self._schedules(evaluator), fit=True)
        for runs, errors in zip(found.ran, found.errors, strict=True):
            count = evaluator.num_samples
            assert len(runs) == count, (
                f"ran has {len(runs)} of {count} schedules: give one per sample"
            )
            for n, schedule in ((0, runs[0]), (-1, runs[-1])):
                real = self.accelerated_errors(schedule)[n]
                what = f"the error of {schedule} is not that of a run with its weights: report those that ran"
                assert_near(errors[n], real, what, rtol=self.rtol)

    def test_computing_every_step_is_no_error(self) -> None:
        evaluator = self.make_evaluator()
        full = Schedule.full(len(evaluator.grid) - 1)
        errors = evaluator.evaluate([full, *self._schedules(evaluator)]).errors
        assert (errors[0] == 0).all(), f"the full run has errors {shown(errors[0])}: give 0"
        assert (errors[1:] > 0).all(), "a run that skips steps has no error: skip them, and measure"

    def test_the_same_schedules_have_the_same_errors_and_nfe(self) -> None:
        evaluator, schedules = self._evaluated()
        first = evaluator.evaluate(schedules)
        evaluator.evaluate(schedules[::-1], fit=True)
        for one in (evaluator, self.make_evaluator()):
            again = one.evaluate(schedules)
            assert_equal(again.errors, first.errors, f"errors differ once and again: {STATE}")
            assert (again.nfe, again.schedules) == (first.nfe, first.schedules), (
                f"nfe is {first.nfe} once and {again.nfe} again, of the same schedules: {STATE}"
            )

    def test_the_nfe_is_that_of_the_computed_steps_at_most(self) -> None:
        evaluator, schedules = self._evaluated()
        most = evaluator.num_samples * sum(schedule.budget for schedule in schedules)
        nfe = evaluator.evaluate(schedules).nfe
        assert 0 < nfe <= most, f"nfe is {nfe}, {most} at most: count the evaluations that are made"

    def test_samples_are_the_given_ones(self) -> None:
        evaluator, schedules = self._evaluated()
        errors = evaluator.evaluate(schedules).errors
        wanted = (len(schedules), evaluator.num_samples)
        assert errors.shape == wanted, (
            f"errors have shape {errors.shape}: return (schedules, samples)"
        )
        for rows in ([evaluator.num_samples - 1], list(range(evaluator.num_samples))[::-1]):
            found = evaluator.evaluate(schedules, samples=rows).errors
            what = f"errors of samples {rows} are those of others: keep the given order"
            assert_near(found, errors[:, rows], what, rtol=self.rtol)

    def test_schedules_do_not_influence_each_other(self) -> None:
        evaluator, schedules = self._evaluated()
        together = evaluator.evaluate(schedules).errors
        for schedule, errors in zip(schedules, together, strict=True):
            alone = self.make_evaluator().evaluate([schedule]).errors[0]
            what = f"{schedule} has other errors beside others than alone: run each by itself"
            assert_near(errors, alone, what, rtol=self.rtol)

    def test_an_unknown_objective_is_refused(self) -> None:
        evaluator = self.make_evaluator()
        with refused("an unknown objective", "objective"):
            evaluator.evaluate(self._schedules(evaluator), objective="no such objective")

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        """Or as runs of the plain target leave it."""
        evaluator, schedules = self._evaluated()
        evaluator.evaluate(schedules)
        plain = random_state_of(lambda: self.accelerated_errors(schedules[0]))
        assert random_state_of(lambda: evaluator.evaluate(schedules[:1])) == plain, RANDOM
