"""Run schedules on the recorded samples with as few denoiser evaluations as exactness allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts.planning import forecaster_of
from otcache_core.loop import Loop
from otcache_core.plugins import Registry
from otcache_core.schedule import Schedule, Span
from otcache_diffusers.evaluation.fit import Fit, NormalEquations
from otcache_diffusers.evaluation.replay import Outputs, ReplayHook, Track, known_prefix
from otcache_diffusers.hooks import LoopStates, StepHook, drive, usable_grid
from otcache_diffusers.recording.full_runs import Recording
from otcache_diffusers.recording.sampler import Sampler


@dataclass(frozen=True, eq=False)
class ScheduleRun:
    """What one schedule did on the samples of a batch."""

    index: int
    schedule: Schedule
    latents: Tensor
    images: NDArray[np.floating] | None
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
        call_weights: of a loop's outputs of each step, shape (N, P); None if there is one.
        registry: of forecasters.

    Attributes:
        recording: the full runs.
        images: their decoded images; None if nothing is decoded.
        nfe: denoiser evaluations spent so far, in samples times computed steps.
    """

    sampler: Sampler
    grid: NDArray[np.float64]
    call_weights: NDArray[np.float64] | None
    registry: Registry
    recording: Recording = field(default_factory=Recording, init=False)
    images: NDArray[np.floating] | None = field(default=None, init=False)
    nfe: int = field(default=0, init=False)

    @property
    def num_steps(self) -> int:
        """N, the steps that the sampler makes: Heun makes 2n - 1 for n requested ones."""
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
        for ready, *_ in zip(*(held.rounds() for held in prefixes), strict=True):
            for index in (i for i in ready if i not in _full(schedules)):
                tracks = [self._track(schedules[index], held.known(index)) for held in prefixes]
                pooled(tracks, batches)
                for b, samples in enumerate(batches):
                    fitted = self._run({index: tracks[b]}, samples, prefixes[b], decode=decode)
                    yield from ((b, run) for run in fitted)

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
            tracks = {i: self._track(schedules[i], prefixes.known(i)) for i in skipping}
            for group in self._groups(tracks, len(samples)):
                yield from self._run(group, samples, prefixes, fit, decode, watch)

    def _run(
        self,
        tracks: dict[int, Track],
        samples: Sequence[int],
        prefixes: Prefixes,
        fit: Fit | None = None,
        decode: bool = False,
        watch: bool = False,
    ) -> Iterator[ScheduleRun]:
        """Run tracks that share their live steps in one call, and keep the outputs that others need."""
        hook = ReplayHook([*tracks.values()], samples, self.recording, fit, self._spend, watch)
        output = self.replay(hook, [*samples] * len(tracks), "np" if decode else "latent")
        assert hook.result is not None
        for place, (index, track) in enumerate(tracks.items()):
            rows = slice(place * len(samples), (place + 1) * len(samples))
            computed = {step: hook.computed(place, step) for step in track.live}
            for step, outputs in (track.known | computed).items():
                prefixes.keep(index, step, outputs)
            yield ScheduleRun(
                index,
                track.result(),
                hook.result[rows],
                output[rows] if decode else None,
                np.stack(hook.drift, axis=-1)[rows],
                track.results(len(samples)),
            )

    def replay(self, hook: StepHook, samples: Sequence[int], kind: str = "latent") -> Any:
        """Call the target on these samples with a step hook; return its first output."""
        loop = isinstance(self.sampler.target, Loop)
        states = LoopStates(len(samples), self.call_weights) if loop else None
        with drive(self.sampler.target, hook, num_steps=self.num_steps, states=states):
            return self.sampler(samples, output_type=kind)

    def _full_run(self, index: int, schedule: Schedule, samples: Sequence[int]) -> ScheduleRun:
        images = None if self.images is None else self.images[list(samples)]
        still = np.zeros((len(samples), self.num_steps + 1))
        return ScheduleRun(index, schedule, self.full(samples), images, still)

    def full(self, samples: Sequence[int]) -> Tensor:
        """Return x_N of the full runs of some samples, shape (samples, ...)."""
        return self.recording.state(self.num_steps, samples)

    def _track(self, schedule: Schedule, known: dict[int, Outputs]) -> Track:
        forecaster = forecaster_of(self.registry, schedule.forecaster)
        return Track(schedule, forecaster, self._run_grid, known)

    @cached_property
    def _run_grid(self) -> NDArray[np.float64]:
        """s_0 .. s_N as in an accelerated run of the target: a loop without a grid counts steps."""
        if not isinstance(self.sampler.target, Loop):
            return self.grid
        return usable_grid(self.sampler.target.grid_for(self.num_steps))

    def _groups(self, tracks: dict[int, Track], num_samples: int) -> Iterator[dict[int, Track]]:
        """Yield tracks that share their live steps, as many as fit in a batch."""
        order = sorted(tracks, key=lambda i: (tracks[i].live, i))
        size = max(1, self.sampler.request.batch_size // num_samples)
        for _, same in groupby(order, key=lambda i: tracks[i].live):
            yield from ({i: tracks[i] for i in part} for part in chunks(list(same), size))

    def _spend(self, rows: int) -> None:
        self.nfe += rows


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut a sequence into parts of a size, the last of them perhaps smaller."""
    return (items[at : at + size] for at in range(0, len(items), size))


def _full(schedules: Sequence[Schedule]) -> list[int]:
    """Return the indices of those that skip nothing in any branch."""
    return [i for i, s in enumerate(schedules) if s.budget == s.num_steps and not s.branches]


class Prefixes:
    """Shares outputs of several schedules on the same samples, as far as the schedules begin alike.

    What the denoiser returns at a schedule's m-th computed step depends on the steps computed so far and
    on the forecasts of the spans before it. In a closed-loop fit those forecasts follow from the steps.

    Args:
        schedules: all of one evaluation.
        fit: whether their weights are fitted on the way.
    """

    def __init__(self, schedules: Sequence[Schedule], fit: bool) -> None:
        self._schedules = schedules
        self._keys = [_keys(schedule, fit) for schedule in schedules]
        self._wanted = Counter(key for keys in self._keys for key in keys)
        self._held: dict[Hashable, Outputs] = {}

    def known(self, index: int) -> dict[int, Outputs]:
        """Return outputs of a schedule's first live steps, by step, as far as another computed them."""
        outputs: dict[int, Outputs] = {}
        for step, key in self._live(index):
            if key not in self._held:
                break
            outputs[step] = self._held[key]
        return outputs

    def keep(self, index: int, step: int, outputs: Outputs) -> None:
        """Keep an output if another schedule needs it."""
        key = dict(self._live(index))[step]
        if self._wanted[key] > 1:
            self._held[key] = outputs

    def rounds(self) -> Iterator[list[int]]:
        """Yield all schedules in rounds; in one round no two compute the same output.

        A schedule that waited finds what it needs in :meth:`known` in the next round.
        """
        pending = list(range(len(self._schedules)))
        while pending:
            claimed: set[Hashable] = set()
            ready = []
            for index in pending:
                missing = self._first_missing(index)
                if missing is None or missing not in claimed:
                    claimed.add(missing)
                    ready.append(index)
            yield ready
            done = set(ready)
            pending = [index for index in pending if index not in done]
            for index in ready:
                self._release(index)

    def _live(self, index: int) -> list[tuple[int, Hashable]]:
        """Return the computed steps after the known prefix, and their keys."""
        schedule = self._schedules[index]
        first = known_prefix(schedule)
        return list(zip(schedule.computed[first:], self._keys[index][first:], strict=True))

    def _first_missing(self, index: int) -> Hashable | None:
        return next((key for _, key in self._live(index) if key not in self._held), None)

    def _release(self, index: int) -> None:
        """Drop what no schedule that is still to run needs."""
        for key in self._keys[index]:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                self._held.pop(key, None)


def _keys(schedule: Schedule, fit: bool) -> list[Hashable]:
    """Return one key per computed step: equal keys, equal outputs."""
    rule = (schedule.branches, "" if fit else schedule.forecaster)
    tables = [] if fit else [("", schedule.weights), *schedule.branch_weights]
    return [
        (rule, schedule.computed[: m + 1], tuple((name, rows[:m]) for name, rows in tables))
        for m in range(schedule.budget)
    ]


@dataclass(frozen=True, eq=False)
class PooledFit:
    r"""Fits a schedule span by span, every span on the samples of all batches.

    .. math:: \min_c \sum_{batches} \sum_{n \in batch} \| A_n c - b_n \|^2 + \lambda \dots

    The weights of a span are needed before any batch may go on, and a pipeline call cannot wait for
    another. So for every span each batch is run up to its start, what was computed before is
    replayed, and the rest of the call replays the full run: no output is computed twice, but a
    schedule takes as many calls per batch as it has spans that skip, and one more to be run.

    Args:
        fit: how to fit.
        recording: the full runs.
        run: makes one pipeline call on the samples with these indices, driven by the hook.
        count: called with the rows of each denoiser evaluation.
    """

    fit: Fit
    recording: Recording
    run: Callable[[ReplayHook, Sequence[int]], None]
    count: Callable[[int], None]

    def __call__(self, tracks: Sequence[Track], batches: Sequence[Sequence[int]]) -> None:
        """Fit the schedule that all tracks run.

        Args:
            tracks: one per batch, with what is known of its samples; the weights, and what is
                computed on the way, are added to them.
            batches: indices of the samples.
        """
        for span in tracks[0].schedule.spans():
            if span.skipped:
                self._fit_span(span, tracks, batches)

    def _fit_span(
        self, span: Span, tracks: Sequence[Track], batches: Sequence[Sequence[int]]
    ) -> None:
        k, total = span.start, sum(map(len, batches))
        weights = self.fit.nothing(total)
        if not self.fit.recurrence.span_end(k, span.stop).singular:
            each = [self._equations(k, *pair) for pair in zip(tracks, batches, strict=True)]
            together = [NormalEquations.joined(parts) for parts in zip(*each, strict=True)]
            weights = self.fit.weights(together, [n for batch in batches for n in batch])
        at = 0
        for track, batch in zip(tracks, batches, strict=True):
            rows = slice(at, at + len(batch))
            mine = {name: fitted.of(rows) for name, fitted in weights.items()}
            track.install(k, mine, self.fit.forecaster)
            at += len(batch)

    def _equations(self, k: int, track: Track, batch: Sequence[int]) -> list[NormalEquations]:
        """Run one batch up to the span that starts at k; return its equations."""
        live = [step for step in track.live if step <= k]
        hook = ReplayHook([track], batch, self.recording, self.fit, self.count, until=k)
        self.run(hook, batch)
        track.known |= {step: hook.computed(0, step) for step in live}
        return hook.equations
