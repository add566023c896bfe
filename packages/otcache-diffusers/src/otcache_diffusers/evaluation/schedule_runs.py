"""Runs of schedules on the recorded samples, as cheaply as exactness allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts.planning import forecaster_of
from otcache_core.loop import Loop
from otcache_core.plugins import Registry
from otcache_core.schedule import Schedule
from otcache_diffusers.evaluation.closed_loop import Fit
from otcache_diffusers.evaluation.pooled_fit import PooledFit
from otcache_diffusers.evaluation.prefixes import Prefixes
from otcache_diffusers.evaluation.replay import Outputs, ReplayPolicy, Track
from otcache_diffusers.hooks import LoopStates, StepPolicy, drive, usable_grid
from otcache_diffusers.recording.run import Recording
from otcache_diffusers.recording.sampling import Sampler


@dataclass(frozen=True, eq=False)
class ScheduleRun:
    """What one schedule did on the samples of a batch."""

    index: int
    schedule: Schedule
    latents: torch.Tensor
    pictures: NDArray[np.floating] | None
    drift: NDArray[np.float64]
    ran: tuple[Schedule, ...] = ()


@dataclass(eq=False)
class ScheduleRuns:
    """Runs schedules on samples whose full runs are recorded.

    Steps before a schedule's first skip are replayed; schedules that begin alike share outputs; those that
    compute the same steps after that share calls.

    Args:
        sampler: calls the target.
        grid: s_0 .. s_N of the recorded runs.
        gains: of a loop's outputs of each step, shape (N, P); None where there is one.
        registry: where forecasters come from.

    Attributes:
        recording: the full runs.
        pictures: what they made, decoded; None where nothing is.
        nfe: denoiser evaluations spent so far, in samples times computed steps.
    """

    sampler: Sampler
    grid: NDArray[np.float64]
    gains: NDArray[np.float64] | None
    registry: Registry
    recording: Recording = field(default_factory=Recording, init=False)
    pictures: NDArray[np.floating] | None = field(default=None, init=False)
    nfe: int = field(default=0, init=False)

    @property
    def num_steps(self) -> int:
        """N, positions of the sampler: Heun makes 2n - 1 of n steps asked for."""
        return len(self.grid) - 1

    def batched(
        self,
        schedules: tuple[Schedule, ...],
        batches: Sequence[Sequence[int]],
        fit: Fit | None,
        decode: bool,
    ) -> Iterator[tuple[int, ScheduleRun]]:
        """Run every schedule on every batch of samples; of one schedule the batches in order."""
        if fit is None or len(batches) == 1:
            for b, samples in enumerate(batches):
                yield from ((b, run) for run in self.runs(schedules, samples, fit, decode=decode))
            return
        pooled = PooledFit(fit, self.recording, self.replay, self._spend)
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

    def runs(
        self,
        schedules: Sequence[Schedule],
        samples: Sequence[int],
        fit: Fit | None,
        *,
        decode: bool = False,
        watch: bool = False,
    ) -> Iterator[ScheduleRun]:
        """Run every schedule on these samples, at most a batch of them, in no particular order."""
        for index in _full(schedules):
            yield self._full_run(index, schedules[index], samples)
        prefixes = Prefixes(schedules, fit=fit is not None)
        for ready in prefixes.rounds():
            skipping = (i for i in ready if i not in _full(schedules))
            tracks = {i: self._track(schedules[i], prefixes.given(i)) for i in skipping}
            for group in self._groups(tracks, len(samples)):
                inside = [tracks[i] for i in group]
                policy = ReplayPolicy(
                    inside, samples, self.recording, fit, self._spend, watch=watch
                )
                kind = "np" if decode else "latent"
                output = self.replay(policy, [*samples] * len(group), kind)
                assert policy.result is not None
                for place, index in enumerate(group):
                    rows = slice(place * len(samples), (place + 1) * len(samples))
                    for step in tracks[index].live:
                        prefixes.keep(index, step, policy.computed(place, step))
                    yield ScheduleRun(
                        index,
                        tracks[index].result(),
                        policy.result[rows],
                        output[rows] if decode else None,
                        np.stack(policy.drift, axis=-1)[rows],
                        tracks[index].results(len(samples)),
                    )

    def replay(self, policy: StepPolicy, samples: Sequence[int], kind: str = "latent") -> Any:
        """Call the target on these samples with a policy that decides each step; its first output."""
        states = self._states(len(samples))
        with drive(self.sampler.target, policy, num_steps=self.num_steps, states=states):
            return self.sampler(samples, output_type=kind)

    def _fitted_run(
        self, index: int, track: Track, samples: Sequence[int], prefixes: Prefixes, decode: bool
    ) -> ScheduleRun:
        """Run a schedule that is fitted already, up to what is computed already."""
        policy = ReplayPolicy([track], samples, self.recording, None, self._spend)
        output = self.replay(policy, samples, "np" if decode else "latent")
        outputs = track.given | {step: policy.computed(0, step) for step in track.live}
        for step, found in outputs.items():
            prefixes.keep(index, step, found)
        assert policy.result is not None
        pictures = output if decode else None
        ran = track.results(len(samples))
        return ScheduleRun(index, track.result(), policy.result, pictures, np.zeros(0), ran)

    def _full_run(self, index: int, schedule: Schedule, samples: Sequence[int]) -> ScheduleRun:
        pictures = None if self.pictures is None else self.pictures[list(samples)]
        still = np.zeros((len(samples), self.num_steps + 1))
        return ScheduleRun(index, schedule, self.full(samples), pictures, still)

    def full(self, samples: Sequence[int]) -> torch.Tensor:
        """Return x_N of the full runs of some samples, shape (samples, ...)."""
        return self.recording.state(self.num_steps, samples)

    def _states(self, rows: int) -> LoopStates | None:
        """Return what makes a loop's states and outputs of its calls, as the probe's did."""
        if not isinstance(self.sampler.target, Loop):
            return None
        return LoopStates(rows, self.gains)

    def _track(self, schedule: Schedule, given: dict[int, Outputs]) -> Track:
        forecaster = forecaster_of(self.registry, schedule.forecaster)
        return Track(schedule, forecaster, self._run_grid, given)

    @cached_property
    def _run_grid(self) -> NDArray[np.float64]:
        """s_0 .. s_N as an accelerated run of the target has them: a loop without a grid counts steps."""
        if not isinstance(self.sampler.target, Loop):
            return self.grid
        return usable_grid(self.sampler.target.grid_for(self.num_steps))

    def _groups(self, tracks: dict[int, Track], num_samples: int) -> Iterator[list[int]]:
        """Indices of tracks that share their live steps, as many as fit in a batch."""
        order = sorted(tracks, key=lambda i: (tracks[i].live, i))
        size = max(1, self.sampler.request.batch_size // num_samples)
        for _, same in groupby(order, key=lambda i: tracks[i].live):
            yield from (list(part) for part in chunks(list(same), size))

    def _spend(self, rows: int) -> None:
        self.nfe += rows


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut a row into parts of a size, the last of them perhaps smaller."""
    return (items[at : at + size] for at in range(0, len(items), size))


def _full(schedules: Sequence[Schedule]) -> list[int]:
    """Indices of those that skip nothing in any branch."""
    return [i for i, s in enumerate(schedules) if s.budget == s.num_steps and not s.branches]
