"""Run several schedules on several samples in one pipeline call, replaying what is known already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts import Forecaster
from otcache_core.schedule import Schedule, Span
from otcache_diffusers.closed_loop import ClosedLoopFit
from otcache_diffusers.driver import RunInfo, StepPolicy, combine
from otcache_diffusers.recording import Recording
from otcache_diffusers.rows import join_rows, split_rows


def known_prefix(schedule: Schedule) -> int:
    """Number of leading steps whose outputs equal the full run's: those before the first skipped one."""
    return next((t for t, k in enumerate(schedule.computed) if k != t), len(schedule.computed))


def live_steps(schedule: Schedule) -> tuple[int, ...]:
    """The steps that must really be computed: schedules that share them can share a pipeline call."""
    return schedule.computed[known_prefix(schedule) :]


@dataclass
class Track:
    """One schedule inside a shared call, and the forecasts of its spans.

    Args:
        schedule: what to run.
        forecaster: fills its skipped steps, unless ``fit`` replaces it.
        grid: s_0 .. s_N.
    """

    schedule: Schedule
    forecaster: Forecaster
    grid: NDArray[np.float64]

    def __post_init__(self) -> None:
        self.prefix = known_prefix(self.schedule)
        self.span_of: dict[int, Span] = {}
        self.tables: dict[int, NDArray[np.float64]] = {}
        self.fitted: dict[int, tuple[float, ...]] = {}
        for span in self.schedule.spans():
            self.span_of.update(dict.fromkeys(range(span.start, span.stop), span))
            if span.skipped:
                self.tables[span.start] = self.forecaster.coefficients(span, self.grid)

    def coefficients(self, step: int) -> tuple[Span, NDArray[np.float64]]:
        """The span of a skipped step and its row of the table A."""
        span = self.span_of[step]
        return span, self.tables[span.start][step - span.start - 1]

    def install(self, span: Span, weights: tuple[float, ...], forecaster: Forecaster) -> None:
        """Forecast a span with these weights from now on."""
        self.fitted[span.start] = weights
        fitted = Span(span.start, span.stop, span.history, weights)
        self.tables[span.start] = forecaster.coefficients(fitted, self.grid)

    def result(self) -> Schedule:
        """The schedule with the weights fitted on the way (unchanged if none were)."""
        if not self.fitted:
            return self.schedule
        return self.schedule.with_weights([self.fitted.get(k, ()) for k in self.schedule.computed])


@dataclass
class Fit:
    """A closed-loop fit while the run goes on: the rule, and the forecaster that uses its weights."""

    rule: ClosedLoopFit
    forecaster: Forecaster


class ReplayPolicy(StepPolicy):
    """Rows are (schedule, sample) pairs, schedule after schedule; all tracks share their live steps.

    Args:
        tracks: the schedules.
        samples: indices of the samples, the same for every track.
        recording: the full runs.
        fit: fit weights of each span from its own drifted state; None to use each track's forecaster.
        count: called with the rows of each denoiser evaluation.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        samples: Sequence[int],
        recording: Recording,
        fit: Fit | None,
        count: Callable[[int], None],
    ) -> None:
        self._tracks, self._samples, self._recording = tracks, samples, recording
        self._fit, self._count = fit, count
        self._live = set(live_steps(tracks[0].schedule))
        self._num_rows = len(tracks) * len(samples)
        self._computed: dict[tuple[int, str], list[Any]] = {}
        self._guided: dict[int, torch.Tensor] = {}
        self.result: torch.Tensor | None = None

    def begin(self, run: RunInfo) -> None:
        self._main: str | None = None

    def before(self, step: int, branch: str) -> Any | None:
        if step in self._live:
            return None
        rows: list[Any] = []
        for index, track in enumerate(self._tracks):
            rows.extend(self._track_rows(index, track, step, branch))
        return join_rows(rows)

    def after(self, step: int, branch: str, output: Any) -> None:
        self._main = self._main or branch
        if branch == self._main:
            self._count(self._num_rows)
        self._computed[step, branch] = split_rows(output, self._num_rows)

    def stepped(
        self,
        step: int,
        sample: torch.Tensor,
        model_output: torch.Tensor,
        next_sample: torch.Tensor,
    ) -> None:
        self.result = next_sample
        if self._fit is None:
            return
        self._guided[step] = model_output
        for index, track in enumerate(self._tracks):
            span = track.span_of[step]
            if span.start == step and span.skipped:
                self._fit_span(self._fit, index, track, span, next_sample)

    def end(self, completed: bool) -> None:
        self._computed.clear()

    def _rows_of(self, index: int) -> slice:
        n = len(self._samples)
        return slice(index * n, (index + 1) * n)

    def _track_rows(self, index: int, track: Track, step: int, branch: str) -> list[Any]:
        if step < track.prefix:
            return self._known(step, branch)
        span, row = track.coefficients(step)
        sources = [
            self._known(k, branch)
            if k < track.prefix
            else self._computed[k, branch][self._rows_of(index)]
            for k in (span.start, *span.history)[: len(row)]
        ]
        return [combine(outputs, [float(a) for a in row]) for outputs in zip(*sources, strict=True)]

    def _known(self, step: int, branch: str) -> list[Any]:
        recorded = self._recording.raw[step, branch]
        return [recorded[n] for n in self._samples]

    def _fit_span(
        self, fit: Fit, index: int, track: Track, span: Span, state: torch.Tensor
    ) -> None:
        rows = self._rows_of(index)
        steps = (span.start, *span.history)[: fit.rule.memory]
        wanted = torch.stack([self._recording.states[span.stop][n] for n in self._samples])
        outputs = [self._guided[k][rows] for k in steps]
        weights = fit.rule.solve(span, track.grid, outputs, state[rows], wanted)
        track.install(span, weights, fit.forecaster)
