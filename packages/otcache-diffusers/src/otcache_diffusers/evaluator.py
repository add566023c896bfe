"""The evaluator of a live pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts import (
    Drift,
    Evaluation,
    Evaluator,
    QualityMetric,
    SampleRequest,
    compare,
)
from otcache_core.errors import OtcacheError, expected
from otcache_core.loop import Loop
from otcache_core.notices import NOT_FITTED, not_fitted, notify
from otcache_core.plugins import Registry
from otcache_core.recurrence import NotLinear, Recurrence
from otcache_core.schedule import Schedule
from otcache_core.trajectory import Trajectory
from otcache_diffusers.closed_loop import ClosedLoopFit
from otcache_diffusers.deviations import Deviations
from otcache_diffusers.driver import LoopStates, StepPolicy, drive, usable_grid
from otcache_diffusers.guidance import branch_gains
from otcache_diffusers.pooled_fit import PooledFit
from otcache_diffusers.prefixes import Outputs, Prefixes
from otcache_diffusers.recording import Recording, RecordingPolicy
from otcache_diffusers.replay import Fit, ReplayPolicy, Track
from otcache_diffusers.replay_check import ReplayCheck
from otcache_diffusers.requests import prepared
from otcache_diffusers.sampling import Sampler
from otcache_diffusers.shelf import Shelf
from otcache_diffusers.shuffled import confirmed_recurrence

#: What helps where a loop does to its denoiser's outputs what is not linear.
INSIDE = (
    "If it clips predictions, or guides in a way that is not linear, let denoiser= be a function that "
    "does so inside, called as loop.denoiser(...)"
)
LATENT_OBJECTIVES = ("latent-rmse", "latent-l1")


@dataclass(frozen=True, eq=False)
class _Run:
    """What one schedule did on the samples of a batch."""

    index: int
    schedule: Schedule
    latents: torch.Tensor
    pictures: NDArray[np.floating] | None
    drift: NDArray[np.float64]
    ran: tuple[Schedule, ...] = ()


class PipelineEvaluator(Evaluator):
    """Runs schedules on recorded samples of a pipeline, as cheaply as exactness allows.

    Steps before a schedule's first skip are replayed from the full run at no cost, schedules of one
    question that begin alike share the outputs up to where they part, and schedules that compute the
    same steps after that share one batched call. The first evaluation runs the samples in
    full once more, to keep the denoiser's outputs per branch; that pass is not part of any
    ``Evaluation.nfe``, so that the same question has the same price whenever it is asked.

    The fit is one of all samples, however few one pipeline call holds: with more than one batch each
    schedule is run span by span (:class:`~otcache_diffusers.pooled_fit.PooledFit`), for more calls
    but no more evaluations. On two samples or more every sample runs with the weights that the
    others give, so its error is one of a sample the fit never saw, and comparing fitted schedules by
    it does not reward overfitting. The weights returned are those of all samples. Where guidance is
    linear in its branches (:func:`~otcache_diffusers.guidance.branch_gains`), every branch gets its
    own. The fit needs a deterministic linear sampler
    (:func:`~otcache_diffusers.shuffled.confirmed_recurrence`); under any other ``fit`` changes
    nothing, and a notice says why, once.

    A schedule that skips nothing is the full run and is not run again.

    What it holds of each sample, on the pipeline's device: N outputs a branch, N guided outputs and
    N + 1 states, so (N (C + 2) + 1) latents with C branches; and of the schedules that run, the B
    outputs a branch of each, and on the host how far it ended from the full run. Recorded runs and
    deviations go to the disk where the runs of all samples exceed ``request.keep.memory_bytes``,
    which a notice tells, and are read from there a step at a time.

    Args:
        target: a diffusers pipeline or a Loop.
        request: the samples; ``batch_size`` bounds the rows of one call and changes no result beyond
            rounding.
        trajectories: the same samples, recorded.
        fit: the rule of the closed-loop fit.
        metrics: perceptual objectives by name; where the pipeline decodes pictures, ``lpips`` and
            ``rmse`` of decoded pictures by default.

    Raises:
        OtcacheError: if request and trajectories disagree.
    """

    def __init__(
        self,
        target: Any,
        request: SampleRequest,
        trajectories: Sequence[Trajectory],
        *,
        fit: ClosedLoopFit | None = None,
        metrics: dict[str, QualityMetric] | None = None,
    ) -> None:
        if len(request.prompts) != len(trajectories):
            raise OtcacheError(
                expected("trajectories", len(trajectories), f"{len(request.prompts)}, one a sample")
            )
        self._request = request = prepared(target, request)
        self._target = target
        self._sampler = Sampler(target, request)
        self._trajectories, self._grid = trajectories, trajectories[0].grid
        self._registry = Registry()
        self._metrics = self._default_metrics() if metrics is None else metrics
        self._recording: Recording | None = None
        self._pictures: NDArray[np.floating] | None = None
        self._nfe = 0
        forecaster = self._registry.create("forecasters", "fitted")
        rule, euler = fit or ClosedLoopFit(), Recurrence.euler(self._grid)
        self._fit = Fit(rule, forecaster, euler, seeds=request.seeds)
        self._found: Recurrence | NotLinear | None = None
        self._told = False

    @property
    def grid(self) -> NDArray[np.float64]:
        return self._grid

    @property
    def _num_steps(self) -> int:
        """N, positions of the sampler: Heun makes 2n - 1 of n steps asked for."""
        return len(self._grid) - 1

    @property
    def num_samples(self) -> int:
        return len(self._request.prompts)

    @property
    def objectives(self) -> tuple[str, ...]:
        return (*LATENT_OBJECTIVES, *self._metrics)

    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        objective = self._check_objective(objective)
        chosen = self._begin(samples)
        fitting = self._fitting() if fit else None
        errors = np.zeros((len(schedules), len(chosen)))
        deviations = Deviations(len(schedules), self._shelf())
        results, ran = list(schedules), [[s] * len(chosen) for s in schedules]
        batches = list(self._chunks(chosen, self._request.batch_size))
        places = list(self._chunks(range(len(chosen)), self._request.batch_size))
        decode = objective in self._metrics
        for b, run in self._batched(tuple(schedules), batches, fitting, decode):
            error = (run.latents - self._full(batches[b])).detach().cpu().flatten(1)
            deviations.add(run.index, error)
            errors[run.index, list(places[b])] = self._score(
                objective, error, run.pictures, batches[b]
            )
            results[run.index] = run.schedule
            for place, schedule in zip(places[b], run.ran, strict=False):
                ran[run.index][place] = schedule
        grams = deviations.grams()
        return Evaluation(tuple(results), errors, self._nfe, grams, tuple(map(tuple, ran)))

    @property
    def largest_batch(self) -> int:
        n = min(self.num_samples, self._request.batch_size)
        return n * (self._request.batch_size // n)

    def replay(self, samples: Sequence[int]) -> NDArray[np.float64]:
        self._begin(None)
        assert self._recording is not None
        policy = ReplayCheck(self._recording, self._trajectories, samples)
        self._replay(policy, samples)
        return policy.deviations

    def drift(
        self, schedules: Sequence[Schedule], *, samples: Sequence[int] | None = None
    ) -> Drift:
        chosen = self._begin(samples)
        errors = np.zeros((len(schedules), len(chosen), self._num_steps + 1))
        for part in self._chunks(range(len(chosen)), self._request.batch_size):
            inside = [chosen[p] for p in part]
            for run in self._runs(tuple(schedules), inside, None, watch=True):
                errors[run.index, list(part)] = run.drift
        return Drift(errors, self._nfe)

    def _begin(self, samples: Sequence[int] | None) -> tuple[int, ...]:
        self._nfe = 0
        self._record()
        return tuple(range(self.num_samples)) if samples is None else tuple(samples)

    def _default_metrics(self) -> dict[str, QualityMetric]:
        if not self._sampler.decodes:
            return {}
        return {name: self._registry.create("metrics", name) for name in ("lpips", "rmse")}

    def _check_objective(self, objective: str | None) -> str:
        name = objective or self.objectives[0]
        if name not in self.objectives:
            raise OtcacheError(expected("objective", name, f"one of {', '.join(self.objectives)}"))
        return name

    def _record(self) -> None:
        """Run the samples in full once, and decode them if pictures may be compared."""
        if self._recording is not None:
            return
        recording, shown = Recording(), []
        for part in self._chunks(range(self.num_samples), self._request.batch_size):
            policy = RecordingPolicy(recording, len(part), self.num_samples, self._request.keep)
            kind = "np" if self._metrics else "latent"
            with drive(
                self._target, policy, num_steps=self._num_steps, states=self._states(len(part))
            ):
                shown.append(self._sampler(part, output_type=kind))
        for note in recording.notes:
            notify(note)
        self._recording = recording
        self._fit.gains = branch_gains(recording, self._trajectories[0].gains)
        self._pictures = np.concatenate(shown) if self._metrics else None

    def _states(self, rows: int) -> LoopStates | None:
        """Return what makes a loop's states and outputs of its calls, as the probe's did."""
        if not isinstance(self._target, Loop):
            return None
        return LoopStates(rows, self._trajectories[0].gains)

    @property
    def recurrence(self) -> Recurrence | NotLinear:
        if self._found is None:
            self._record()
            assert self._recording is not None
            self._found = confirmed_recurrence(
                self._target, self._sampler, self._recording, self._trajectories
            )
            if isinstance(self._found, Recurrence):
                self._fit.recurrence = self._found
            elif isinstance(self._target, Loop):
                self._found = replace(self._found, reason=f"{self._found.reason}. {INSIDE}")
        return self._found

    def _fitting(self) -> Fit | None:
        """How to fit; where that cannot be, None, and the reason as a notice the first time."""
        found = self.recurrence
        if isinstance(found, Recurrence):
            return self._fit
        if not self._told:
            notify(not_fitted(found.reason), fact=NOT_FITTED)
            self._told = True
        return None

    def _track(self, schedule: Schedule, given: dict[int, Outputs]) -> Track:
        forecaster = self._registry.create("forecasters", schedule.forecaster)
        return Track(schedule, forecaster, self._run_grid, given)

    @cached_property
    def _run_grid(self) -> NDArray[np.float64]:
        """s_0 .. s_N as an accelerated run of the target has them: a loop without a grid counts steps."""
        if not isinstance(self._target, Loop):
            return self._grid
        return usable_grid(self._target.grid_for(self._num_steps))

    def _batched(
        self,
        schedules: tuple[Schedule, ...],
        batches: Sequence[Sequence[int]],
        fit: Fit | None,
        decode: bool,
    ) -> Iterator[tuple[int, _Run]]:
        """Run every schedule on every batch of samples; of one schedule the batches in order."""
        if fit is None or len(batches) == 1:
            for b, samples in enumerate(batches):
                yield from ((b, run) for run in self._runs(schedules, samples, fit, decode=decode))
            return
        assert self._recording is not None
        pooled = PooledFit(fit, self._recording, self._replay, self._spend)
        prefixes = [Prefixes(schedules, fit=True) for _ in batches]
        for index in _full(schedules):
            for b, samples in enumerate(batches):
                yield b, self._full_run(index, schedules[index], samples)
        for ready, *_ in zip(*(found.rounds() for found in prefixes), strict=True):
            for index in (i for i in ready if i not in _full(schedules)):
                tracks = [self._track(schedules[index], found.given(index)) for found in prefixes]
                pooled(tracks, batches)
                for b, samples in enumerate(batches):
                    yield b, self._fitted_run(index, tracks[b], samples, prefixes[b], decode)

    def _fitted_run(
        self, index: int, track: Track, samples: Sequence[int], prefixes: Prefixes, decode: bool
    ) -> _Run:
        """Run a schedule that is fitted already, up to what is computed already."""
        assert self._recording is not None
        policy = ReplayPolicy([track], samples, self._recording, None, self._spend)
        output = self._replay(policy, samples, "np" if decode else "latent")
        outputs = track.given | {step: policy.computed(0, step) for step in track.live}
        for step, found in outputs.items():
            prefixes.keep(index, step, found)
        assert policy.result is not None
        pictures = output if decode else None
        ran = track.results(len(samples))
        return _Run(index, track.result(), policy.result, pictures, np.zeros(0), ran)

    def _replay(self, policy: StepPolicy, samples: Sequence[int], kind: str = "latent") -> Any:
        states = self._states(len(samples))
        with drive(self._target, policy, num_steps=self._num_steps, states=states):
            return self._sampler(samples, output_type=kind)

    def _runs(
        self,
        schedules: Sequence[Schedule],
        samples: Sequence[int],
        fit: Fit | None,
        *,
        decode: bool = False,
        watch: bool = False,
    ) -> Iterator[_Run]:
        """Run every schedule on these samples, at most a batch of them, in no particular order."""
        assert self._recording is not None
        for index in _full(schedules):
            yield self._full_run(index, schedules[index], samples)
        prefixes = Prefixes(schedules, fit=fit is not None)
        for ready in prefixes.rounds():
            skipping = (i for i in ready if i not in _full(schedules))
            tracks = {i: self._track(schedules[i], prefixes.given(i)) for i in skipping}
            for group in self._groups(tracks, len(samples)):
                inside = [tracks[i] for i in group]
                policy = ReplayPolicy(
                    inside, samples, self._recording, fit, self._spend, watch=watch
                )
                kind = "np" if decode else "latent"
                output = self._replay(policy, [*samples] * len(group), kind)
                assert policy.result is not None
                for place, index in enumerate(group):
                    rows = slice(place * len(samples), (place + 1) * len(samples))
                    for step in tracks[index].live:
                        prefixes.keep(index, step, policy.computed(place, step))
                    yield _Run(
                        index,
                        tracks[index].result(),
                        policy.result[rows],
                        output[rows] if decode else None,
                        np.stack(policy.drift, axis=-1)[rows],
                        tracks[index].results(len(samples)),
                    )

    def _full_run(self, index: int, schedule: Schedule, samples: Sequence[int]) -> _Run:
        pictures = None if self._pictures is None else self._pictures[list(samples)]
        still = np.zeros((len(samples), self._num_steps + 1))
        return _Run(index, schedule, self._full(samples), pictures, still)

    def _groups(self, tracks: dict[int, Track], num_samples: int) -> Iterator[list[int]]:
        """Indices of tracks that share their live steps, as many as fit in a batch."""
        order = sorted(tracks, key=lambda i: (tracks[i].live, i))
        size = max(1, self._request.batch_size // num_samples)
        for _, same in groupby(order, key=lambda i: tracks[i].live):
            yield from (list(part) for part in self._chunks(list(same), size))

    def _spend(self, rows: int) -> None:
        self._nfe += rows

    def _shelf(self) -> Shelf | None:
        """Another one beside the recording's, for what is needed less long."""
        away = self._recording and self._recording.shelf
        return away.another() if away else None

    def _full(self, samples: Sequence[int]) -> torch.Tensor:
        assert self._recording is not None
        return self._recording.state(self._num_steps, samples)

    def _score(
        self,
        objective: str,
        error: torch.Tensor,
        pictures: NDArray[np.floating] | None,
        samples: Sequence[int],
    ) -> NDArray[np.float64]:
        if objective == "latent-rmse":
            return np.asarray(error.double().square().mean(1).sqrt())
        if objective == "latent-l1":
            return np.asarray(error.double().abs().mean(1))
        assert pictures is not None
        assert self._pictures is not None
        return compare(self._metrics[objective], pictures, self._pictures[list(samples)])

    @staticmethod
    def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
        return (items[at : at + size] for at in range(0, len(items), size))


def _full(schedules: Sequence[Schedule]) -> list[int]:
    """Indices of those that skip nothing in any branch."""
    return [i for i, s in enumerate(schedules) if s.budget == s.num_steps and not s.branches]
