"""The executor's step hook: follow a playback table, and report what happened."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts import CacheStorage, Forecaster, RunReport, ScheduleByGrid
from otcache_core.errors import ExecutionError, OtcacheError, OtcacheNotice
from otcache_core.notices import heard, notify
from otcache_core.playback import Playback, PlaybackTable, playback_table
from otcache_core.schedule import Schedule
from otcache_diffusers.execution.output_cache import OutputCache, TorchArithmetic
from otcache_diffusers.hooks import DenoiserCall, RunInfo, Severity, StepHook, usable_grid


class CachedSteps(StepHook):
    r"""On a skipped step t return sum_k A_{t,k} v_k instead of v_t, as the schedule's playback table says.

    Each branch is forecast from its own outputs of exactly the scheduled steps; if one is missing
    the step is computed, and if the forecaster gives no finite coefficients for a span its steps are.
    Runs that cannot follow the schedule, of another step count for one, are computed in full.

    Args:
        schedule: the computed steps and weights, or what gives them for each run's grid.
        resolve: gives the forecaster, which gives A, of a name.
        report: filled as runs go by.
        strict: refuse what would only be computed in full.
        storage: how outputs are kept; None: as they are.
        guiders: classes of the guiders that combine the branches, for the report.
    """

    watches = False

    def __init__(
        self,
        schedule: Schedule | ScheduleByGrid,
        resolve: Callable[[str], Forecaster],
        report: RunReport,
        *,
        strict: bool = False,
        storage: CacheStorage | None = None,
        guiders: Sequence[str] = (),
    ) -> None:
        self._guiders = guiders
        self._schedule_for = schedule if callable(schedule) else lambda grid: schedule
        self._resolve = functools.cache(resolve)  # plugins are looked up once, not every run
        self._report, self._strict = report, strict
        if isinstance(schedule, Schedule):
            self._take(schedule)
        report.storage = storage or CacheStorage()
        self._outputs = OutputCache(report.storage, report.hold)
        self._playback = Playback(arithmetic=TorchArithmetic(), outputs=self._outputs)
        self._follows = False
        self._to_skip, self._skipped, self._why, self._started = 0, 0, "", 0.0

    def begin(self, run: RunInfo) -> None:
        """Take the schedule of a run that starts."""
        self._started, self._skipped = _now(), 0
        self._follows, self._why = False, "no reason is known."
        self._to_skip = 0
        try:
            with heard(self.note):
                self._take(self._schedule_for(run.grid))
        except OtcacheNotice:  # the user turned notices into errors
            raise
        except Exception as error:  # making a schedule in a run may raise anything
            if self._strict:
                raise
            self._schedule = Schedule.full(run.num_steps)
            self._report.planned = self._schedule.computed
            self._say(f"a run cannot follow its plan, and is computed in full: {_text(error)}")
            return
        n = self._schedule.num_steps
        if run.num_steps == n:
            self._follow(self._table(run.grid))
            return
        message = f"a run of {run.num_steps} steps cannot follow a schedule of {n}"
        if self._strict:
            raise ExecutionError(f"{message}: plan one for {run.num_steps} steps.")
        self._say(f"{message}: it is computed in full.")

    def _take(self, schedule: Schedule) -> None:
        self._schedule, self._forecaster = schedule, self._resolve(schedule.forecaster)
        self._report.planned = schedule.computed
        self._to_skip = schedule.num_steps - schedule.budget

    def _table(self, grid: NDArray[np.float64]) -> PlaybackTable:
        return playback_table(self._schedule, self._forecaster, usable_grid(grid))

    def _follow(self, table: PlaybackTable) -> None:
        if table.notes and self._strict:
            raise ExecutionError(table.notes[0])
        for note in table.notes:  # no second reason is given for the steps without a forecast
            self._say(f"{note} Their steps are computed.")
        self._to_skip = min(self._to_skip, table.num_steps - table.budget)
        self._playback.begin(table)
        self._follows = True

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Return the output of a skipped step, None if it must be computed."""
        forecast = self.combined(call)
        if forecast is None or not call.converts:
            return forecast
        return call.to_output(forecast, writable=not self._outputs.holds(forecast))

    def combined(self, call: DenoiserCall) -> Any | None:
        """Return the forecast of a skipped step as it is kept, None if the step must be computed."""
        if not self._follows:
            return None
        step, branch = call.step, call.branch
        try:
            forecast = self._playback.forecast(branch, step)
        except Exception as error:  # unknown outputs may raise anything
            self.fail(error)
            return None
        if forecast is not None:
            self._count(branch, 1)
        elif steps := self._playback.table.plan(branch).reads(step):
            self.warn(self._outputs.why_not(branch, steps))
        return forecast

    def skips(self, step: int, branch: str) -> bool:
        """Return whether a step will be forecast."""
        return self._follows and not self._playback.computes(branch, step)

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser, and cache its output if a later step needs it."""
        output = call.compute()
        self.keep(call, call.to_run_quantity(output) if self.needs(call) else output)
        return output

    def needs(self, call: DenoiserCall) -> bool:
        """Return whether a later step of the run will be forecast from the output of this one."""
        return self._follows and self._playback.needs(call.branch, call.step)

    def keep(self, call: DenoiserCall, value: Any | None) -> None:
        """Count a computed step, and cache a value of it, if there is one, for later ones that need it."""
        branch = call.branch
        self._report.computed[branch] = self._report.computed.get(branch, 0) + 1
        if not self._follows or value is None:
            return
        try:
            self._playback.keep(branch, call.step, value)
        except Exception as error:  # unknown outputs may raise anything
            self.fail(error)

    def fail(self, error: Exception, skipped: str | None = None) -> None:
        """Compute the rest of the run, since a forecast could not be made; under strict raise the error.

        Args:
            error: why.
            skipped: the branch whose step was counted as skipped, and is computed after all.
        """
        if skipped is not None:
            self._count(skipped, -1)
        if self._strict:
            raise error
        self._follows = False
        self._playback.end()
        self._say(f"{_text(error)} The rest of the run is computed.")

    def _count(self, branch: str, skipped: int) -> None:
        self._skipped += skipped
        self._report.skipped[branch] = self._report.skipped.get(branch, 0) + skipped

    def end(self, completed: bool) -> None:
        """Complete the report of a run, and release its outputs."""
        self._report.seconds += _now() - self._started
        self._report.runs += completed
        self._playback.end()
        if self._outputs.overflowed():
            self.warn(
                "an output was beyond the range of fp16, in which outputs are kept: forecasts from it "
                "are infinite. Keep outputs in bf16."
            )
        if not completed:
            self.warn("a run broke off before its last step.")
            return
        self._warn_of_missing()
        self._note_shared_weights()
        if self._follows and self._to_skip and not self._skipped:
            self._say(f"no call was skipped although {self._to_skip} steps were to be: {self._why}")

    def report(self, message: str, severity: Severity) -> None:
        """Keep a message for the report; under strict refuse a run that is computed in full."""
        if severity is Severity.NOTE:
            self.note(message)
        elif severity is Severity.WARNING:
            self.warn(message)
        elif self._strict:
            raise ExecutionError(message)
        else:
            self._report.uncounted = True
            self._say(f"{message} Runs are computed in full.")

    def _say(self, message: str) -> None:
        """Keep it for the report and give it as a notice, once."""
        if message not in self._report.warnings:
            self.warn(message)
            notify(message)

    def warn(self, message: str) -> None:
        """Keep it for the report, once, and as a reason if nothing is skipped."""
        self._why = message
        self.note(message)

    def note(self, message: str) -> None:
        """Keep it for the report, once."""
        if message not in self._report.warnings:
            self._report.warnings.append(message)

    def _warn_of_missing(self) -> None:
        named = {name for name, _ in (*self._schedule.branches, *self._schedule.branch_weights)}
        missing = sorted(named - self._playback.branches.keys()) if self._follows else []
        if missing:
            self.warn(
                f"the schedule plans for {_listed(missing)}, which no call of a run was: it had "
                f"{_listed(self._playback.branches)}. Name branches as run.report does."
            )

    def _note_shared_weights(self) -> None:
        """Report that branches of a guider have no fitted weights of their own."""
        fitted = self._follows and any(self._schedule.weights)
        branches = self._playback.branches
        if self._guiders and fitted and len(branches) > 1 and not self._schedule.branch_weights:
            by = ", ".join(self._guiders)
            self.note(f"the branches {_listed(branches)} of {by} share their forecast weights.")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _text(error: Exception) -> str:
    """Return an error's message; of one that is not otcache's, with its class."""
    return str(error) if isinstance(error, OtcacheError) else f"{type(error).__name__}: {error}"


def _now() -> float:
    """Return seconds, after what was launched on a CUDA device; used at a run's two ends only."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.cuda.synchronize()
    return time.perf_counter()
