"""The executor."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

from otcache_all_kinds.flow import Array, Flow
from otcache_core import ExecutionError, Playback, Registry, Schedule
from otcache_core.contracts import CacheExecutor, CacheStorage, RunHandle, RunReport, ScheduleByGrid
from otcache_core.errors import expected
from otcache_core.notices import notify
from otcache_core.playback import playback_table


@final
class FlowExecutor(CacheExecutor):
    """Runs a :class:`~otcache_all_kinds.flow.Flow` by a schedule."""

    def supports(self, target: Any) -> str:
        """Take a Flow, and nothing else."""
        return "" if isinstance(target, Flow) else f"runs a Flow, got {type(target).__name__}"

    @contextmanager
    def attach(
        self,
        target: Any,
        schedule: Schedule | ScheduleByGrid,
        *,
        strict: bool = False,
        calls_per_step: int | None = None,
        storage: CacheStorage | None = None,
        grid: Array | None = None,
    ) -> Iterator[RunHandle]:
        """Put every step to the schedule first."""
        if reason := self.supports(target):
            raise ExecutionError(reason)
        if storage is not None:
            raise ExecutionError("outputs are kept as they are here: leave storage out.")
        run = Run(schedule, strict, self.registry)
        with target.hooked(run.step):
            yield run
        run.forget()


@final
class Run(RunHandle):
    """Compute or forecast step after step.

    Args:
        schedule: or what gives it, from the grid of a run.
        strict: refuse a run of another step count.
        registry: of forecasters.
    """

    def __init__(
        self, schedule: Schedule | ScheduleByGrid, strict: bool, registry: Registry
    ) -> None:
        self._schedule, self._strict, self._registry = schedule, strict, registry
        self._report = RunReport(computed={"call": 0}, skipped={"call": 0})
        self._playback = Playback()

    @property
    def report(self) -> RunReport:
        """What happened so far."""
        return self._report

    def step(self, i: int, s: Array, x: Array, compute: Callable[[], Array]) -> Array:
        """Return the output of step i: computed, or forecast from those that were."""
        if i == 0:
            self._begin(s)
        output = self._playback.forecast("", i)
        if output is None:
            output = compute()
            self._playback.keep("", i, output)
            self._report.computed["call"] += 1
        else:
            self._report.skipped["call"] += 1
        self._report.hold(output.nbytes * len(self._playback.kept("")), 0)
        if i == len(s) - 2:
            self._report.runs += 1
            self._report.seconds += time.perf_counter() - self._began
            self.forget()
        return output

    def forget(self) -> None:
        """Let go of what is kept."""
        self._playback.end()
        self._report.hold(0, 0)

    def _begin(self, s: Array) -> None:
        self.forget()
        self._began, n = time.perf_counter(), len(s) - 1
        schedule = self._schedule(s) if callable(self._schedule) else self._schedule
        if schedule.num_steps != n:
            said = expected("steps of the run", n, f"{schedule.num_steps}, as planned")
            if self._strict:
                raise ExecutionError(said)
            notify(f"{said} Every step is computed.")
            schedule = Schedule.full(n)
        rule = self._registry.create("forecasters", schedule.forecaster)
        self._playback.begin(playback_table(schedule, rule, s))
        self._report.planned = schedule.computed
