"""Run several schedules on several samples in one pipeline call, replaying known outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts import Forecaster
from otcache_core.contracts.planning import LOOKED_AT, Orders
from otcache_core.recurrence import SpanEnd
from otcache_core.schedule import Schedule, Span
from otcache_diffusers.evaluation.fit import (
    SHARED,
    Fit,
    NormalEquations,
    SpanWeights,
    ideal_difference,
    ideal_output,
)
from otcache_diffusers.execution.output_cache import TorchArithmetic
from otcache_diffusers.hooks import DenoiserCall, RunInfo, Severity, StepHook, combine
from otcache_diffusers.recording.full_runs import Recording
from otcache_diffusers.recording.rows import fold_rows, join_rows, split_rows, stack_rows

#: Outputs of one computed step, by branch, sample by sample.
Outputs = dict[str, list[Any]]


def known_prefix(schedule: Schedule) -> int:
    """Count the leading steps whose outputs equal the full run's: those before the first skipped one."""
    return next((t for t, k in enumerate(schedule.computed) if k != t), len(schedule.computed))


@dataclass
class Track:
    """One schedule inside a shared call, and the forecasts of its spans.

    Args:
        schedule: what to run.
        forecaster: fills its skipped steps, unless ``fit`` replaces it.
        grid: s_0 .. s_N.
        known: outputs of its first live steps that need not be computed, by step.
    """

    schedule: Schedule
    forecaster: Forecaster
    grid: NDArray[np.float64]
    known: dict[int, Outputs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prefix = known_prefix(self.schedule)
        self.span_of: dict[int, Span] = {}
        self.fitted: dict[int, dict[str, SpanWeights]] = {}
        self._tables: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
        self._orders: dict[tuple[int, str], Orders | None] = {}
        for span in self.schedule.spans():
            self.span_of.update(dict.fromkeys(range(span.start, span.stop), span))

    @property
    def live(self) -> tuple[int, ...]:
        """The steps that must really be computed: tracks that share them can share a pipeline call."""
        return self.schedule.computed[self.prefix + len(self.known) :]

    def rows(self, step: int, branch: str, samples: int) -> list[tuple[float, ...]]:
        """Return the row of the table A for a skipped step, one for each of the samples."""
        start = self.span_of[step].start
        if (start, branch) not in self._tables:
            self._tables[start, branch] = self._make(start, branch)
        tables = self._tables[start, branch]
        rows = [tuple(map(float, table[step - start - 1])) for table in tables]
        return rows if len(rows) == samples else rows * samples

    def orders(self, step: int, branch: str) -> Orders | None:
        """Return the forecasts between which each sample chooses; None if it has the rows of the table."""
        start = self.span_of[step].start
        if start in self.fitted:
            return None
        if (start, branch) not in self._orders:
            self._orders[start, branch] = self.forecaster.orders(
                self._span(start, branch), self.grid
            )
        return self._orders[start, branch]

    def _span(self, start: int, branch: str) -> Span:
        return next(s for s in self.schedule.spans(branch) if s.start == start)

    def _make(self, start: int, branch: str) -> list[NDArray[np.float64]]:
        if start not in self.fitted:
            return [self.forecaster.coefficients(self._span(start, branch), self.grid)]
        span, fitted = self.span_of[start], self.fitted[start]
        spans = (
            Span(start, span.stop, span.history, weights)
            for weights in fitted.get(branch, fitted[SHARED]).others
        )
        return [self.forecaster.coefficients(s, self.grid) for s in spans]

    def install(self, start: int, weights: dict[str, SpanWeights], forecaster: Forecaster) -> None:
        """Forecast a span with these weights, every sample with those fitted on the others."""
        self.fitted[start], self.forecaster = weights, forecaster

    def result(self) -> Schedule:
        """Return the schedule with its fitted weights, pooled (unchanged if none were fitted)."""
        return self._with_weights(None)

    def results(self, samples: int) -> tuple[Schedule, ...]:
        """Return the schedule that each sample ran, with the weights fitted on the others."""
        return tuple(map(self._with_weights, range(samples)))

    def _with_weights(self, sample: int | None) -> Schedule:
        if not self.fitted:
            return self.schedule
        rows: dict[str, list[tuple[float, ...]]] = {}
        for name in {name for weights in self.fitted.values() for name in weights}:
            spans = (self.fitted.get(k) for k in self.schedule.computed)
            rows[name] = [weights[name].used_by(sample) if weights else () for weights in spans]
        return self.schedule.with_weights(rows.pop(SHARED), rows)


class ReplayHook(StepHook):
    """Runs rows of (schedule, sample) pairs, schedule after schedule; all tracks share their live steps.

    Args:
        tracks: the schedules.
        samples: indices of the samples, the same for every track.
        recording: the full runs.
        fit: fit weights of each span from its own drifted state; None to use each track's forecaster.
        count: called with the rows of each denoiser evaluation.
        watch: keep how far the states are from the full run's, in ``drift``.
        until: start of a span whose ``equations`` are wanted; from there on the full run is replayed at
            no cost.

    Attributes:
        equations: of the span that starts at ``until``, as :meth:`Fit.weights` takes them.
        result: x_N of all rows.
        drift: root mean square deviation of x_0 .. x_N, each of shape (rows,).
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        samples: Sequence[int],
        recording: Recording,
        fit: Fit | None,
        count: Callable[[int], None],
        watch: bool = False,
        until: int | None = None,
    ) -> None:
        self._until = until
        self.equations: list[NormalEquations] = []
        self._tracks, self._samples, self._recording = tracks, samples, recording
        self._fit, self._count = fit, count
        self._live = set(tracks[0].live)
        self._num_rows = len(tracks) * len(samples)
        self._computed: dict[tuple[int, str], list[Any]] = {}
        self._guided: dict[int, Tensor] = {}
        self._states: dict[int, Tensor] = {}
        self._order_weights: dict[tuple[int, int, str], list[list[Any]]] = {}
        self._watch = watch
        self.result: Tensor | None = None
        self.drift = [np.zeros(self._num_rows)]

    def begin(self, run: RunInfo) -> None:
        """Start a run."""
        self._main: str | None = None
        self._forecasts: list[list[Any] | None] = []
        self._num_steps = run.num_steps

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Return known outputs or forecasts of all rows; None at a live step."""
        step, branch = call.step, call.branch
        if self._until is not None and step > self._until:
            return call.to_output(join_rows(self._recorded(step, branch) * len(self._tracks)))
        if step in self._live:
            return None
        forecasts = [
            self._track_rows(index, track, step, branch) for index, track in enumerate(self._tracks)
        ]
        if None in forecasts:
            self._forecasts = forecasts
            return None
        return call.to_output(join_rows([row for rows in forecasts for row in rows or ()]))

    def compute(self, call: DenoiserCall) -> Any:
        """Count and keep the outputs of a live step; at another compute the rows without a forecast."""
        output = call.compute()
        if call.step not in self._live:
            made = split_rows(call.to_run_quantity(output), self._num_rows)
            for index, rows in enumerate(self._forecasts):
                made[self._rows_of(index)] = rows or made[self._rows_of(index)]
            return call.to_output(join_rows(made))
        self._main = self._main or call.branch
        if call.branch == self._main:
            self._count(self._num_rows)
        self._computed[call.step, call.branch] = split_rows(
            call.to_run_quantity(output), self._num_rows
        )
        return output

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Keep the result, compare the states, and fit the span that starts here."""
        sample, model_output, next_sample = fold_rows(
            self._num_rows, sample, model_output, next_sample
        )
        self.result = next_sample
        if self._watch:
            self._look(step, sample, next_sample)
        if self._fit is None or (self._until is not None and step > self._until):
            return
        self._guided[step] = model_output.clone()  # others may own its memory, and write into it
        if order := self._fit.recurrence.order:
            self._states[step] = sample.clone()  # samplers may write in place
            self._states.pop(step - order, None)
        for index, track in enumerate(self._tracks):
            span = track.span_of[step]
            if span.start == step and span.skipped and step not in track.fitted:
                self._fit_span(self._fit, index, track, span, next_sample)

    def end(self, completed: bool) -> None:
        """Keep what there is."""

    def computed(self, index: int, step: int) -> Outputs:
        """Return the denoiser's outputs for a track at a live step, by branch."""
        rows = self._rows_of(index)
        return {branch: held[rows] for (k, branch), held in self._computed.items() if k == step}

    def _look(self, step: int, sample: Tensor, next_sample: Tensor) -> None:
        """Compare x_step as it is used: inpainting restores the image between two steps."""
        if step:
            self.drift.append(self._deviation(step, sample))
        if step == self._num_steps - 1:
            self.drift.append(self._deviation(step + 1, next_sample))

    def _deviation(self, step: int, states: Tensor) -> NDArray[np.float64]:
        full = self._recording.state(step, self._samples)
        full = full.repeat(len(self._tracks), *[1] * (full.ndim - 1))
        error = (states - full).detach().cpu().double().flatten(1)
        return np.asarray(error.square().mean(1).sqrt())

    def _rows_of(self, index: int) -> slice:
        n = len(self._samples)
        return slice(index * n, (index + 1) * n)

    def _track_rows(self, index: int, track: Track, step: int, branch: str) -> list[Any] | None:
        """Return known outputs or forecasts; None if the branch made no call at a step that is needed."""
        if step < track.prefix or step in track.known:
            return self._outputs(index, track, step, branch)
        if (orders := track.orders(step, branch)) is not None:
            return self._ordered(index, track, orders, step, branch)
        rows = track.rows(step, branch, len(self._samples))
        sources = self._sources(index, track, step, branch, len(rows[0]))
        return sources and [
            combine(outputs, row) for outputs, row in zip(sources, rows, strict=True)
        ]

    def _ordered(
        self, index: int, track: Track, orders: Orders, step: int, branch: str
    ) -> list[Any] | None:
        """Return forecasts of the orders that the samples choose by the outputs before the span."""
        start, width = track.span_of[step].start, max(table.shape[1] for table in orders.tables)
        sources = self._sources(index, track, step, branch, max(width, LOOKED_AT))
        if sources is None:
            return None
        key = index, start, branch
        if key not in self._order_weights:
            arithmetic = TorchArithmetic()
            self._order_weights[key] = [
                arithmetic.order_weights(outputs[:LOOKED_AT], orders.ramps) for outputs in sources
            ]
        rows = [
            orders.coefficients(step - start - 1, chosen) for chosen in self._order_weights[key]
        ]
        pairs = zip(sources, rows, strict=True)
        return [combine(outputs[:width], row) for outputs, row in pairs]

    def _sources(
        self, index: int, track: Track, step: int, branch: str, most: int
    ) -> list[tuple[Any, ...]] | None:
        """Return the latest outputs before a skipped step, sample by sample; None if one is missing."""
        span = track.span_of[step]
        steps = (span.start, *span.history)[:most]
        if not all(self._made(index, track, k, branch) for k in steps):
            return None
        return [*zip(*(self._outputs(index, track, k, branch) for k in steps), strict=True)]

    def _outputs(self, index: int, track: Track, step: int, branch: str) -> list[Any]:
        """Return the denoiser's outputs at a computed step, sample by sample."""
        if step < track.prefix:
            return self._recorded(step, branch)
        if step in track.known:
            return track.known[step][branch]
        return self._computed[step, branch][self._rows_of(index)]

    def _made(self, index: int, track: Track, step: int, branch: str) -> bool:
        """Return whether a branch made a call at a computed step; one of guidance may begin later."""
        if step < track.prefix:
            return (step, branch) in self._recording.raw
        known = track.known.get(step)
        return branch in known if known is not None else (step, branch) in self._computed

    def _recorded(self, step: int, branch: str) -> list[Any]:
        return self._recording.outputs(step, branch, self._samples)

    def _fit_span(self, fit: Fit, index: int, track: Track, span: Span, state: Tensor) -> None:
        rows, k = self._rows_of(index), span.start
        span_end = fit.recurrence.span_end(k, span.stop)
        if span_end.singular:
            text = f"the span from step {k} reuses: no output of its steps moves where it ends."
            self.report(text, Severity.WARNING)
            track.install(k, fit.nothing(len(self._samples)), fit.forecaster)
            return
        steps = (k, *span.history)[: fit.rule.memory]
        wanted = self._recording.state(span.stop, self._samples)
        states = [state, *(self._states[k + 1 - q] for q in range(1, len(span_end.states)))]
        outputs = [self._guided[k - q] for q in range(len(span_end.outputs))]
        mine = [x[rows] for x in states], [v[rows] for v in outputs]
        if fit.recurrence.noisy:
            ideal = self._beside(span_end, span, *mine)
        else:
            ideal = ideal_output(span_end, *mine, wanted)
        terms = {
            name: [
                fit.guidance_weight(name, span, span_end)
                * stack_rows(self._outputs(index, track, t, name)).double()
                for t in steps
            ]
            for name in fit.guidance_weights
        }
        guided = [self._guided[t][rows] for t in steps]
        if fit.varies:  # guided by the weights of the span, not of their own steps
            guided = [torch.stack(parts).sum(0) for parts in zip(*terms.values(), strict=True)]
        equations = [fit.rule.equations(span, track.grid, {SHARED: guided}, ideal)]
        if fit.guidance_weights:
            equations.append(fit.rule.equations(span, track.grid, terms, ideal))
        if k == self._until:
            self.equations = equations
        else:
            track.install(k, fit.weights(equations, self._samples), fit.forecaster)

    def _beside(
        self, span_end: SpanEnd, span: Span, states: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Tensor:
        """Return u* of a sampler whose differences to the full run alone obey the recurrence."""
        record, k = self._recording, span.start
        return ideal_difference(
            span_end,
            [x - record.state(k + 1 - q, self._samples) for q, x in enumerate(states)],
            [v - record.used(k - q, self._samples) for q, v in enumerate(outputs)],
            [record.used(t, self._samples) for t in span.skipped],
        )
