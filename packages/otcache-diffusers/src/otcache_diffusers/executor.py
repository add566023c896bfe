"""The executor for every torch denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from otcache_core.contracts import CacheExecutor, Forecaster, RunHandle, RunReport, SchedulePlan
from otcache_core.plugins import Registry
from otcache_core.schedule import Schedule
from otcache_diffusers.cache_policy import CachePolicy
from otcache_diffusers.driver import drive, unsupported
from otcache_diffusers.sharing import sharers


@dataclass(frozen=True)
class TorchRun(RunHandle):
    """The report of the runs inside one context."""

    _report: RunReport

    @property
    def report(self) -> RunReport:
        return self._report


class TorchExecutor(CacheExecutor):
    """Runs diffusers pipelines, loops and bare modules by a schedule.

    Args:
        resolve: gives the forecaster of a name; by default the installed plugins.
    """

    def __init__(self, resolve: Callable[[str], Forecaster] | None = None) -> None:
        self._resolve = resolve

    def supports(self, target: Any) -> str:
        return unsupported(target)

    def attach(
        self, target: Any, schedule: Schedule | SchedulePlan, *, strict: bool = False
    ) -> AbstractContextManager[RunHandle]:
        return self._attached(target, schedule, strict)

    @contextmanager
    def _attached(
        self, target: Any, schedule: Schedule | SchedulePlan, strict: bool
    ) -> Iterator[RunHandle]:
        fixed = schedule if isinstance(schedule, Schedule) else None
        report = RunReport(planned=fixed.computed if fixed else ())
        policy = CachePolicy(schedule, self._forecaster, report, strict=strict)
        if getattr(target, "controlnet", None) is not None:
            policy.warn("the ControlNet still runs on skipped steps: the speedup is below N/B.")
        with drive(target, policy, num_steps=fixed.num_steps if fixed else None):
            try:
                yield TorchRun(report)
            finally:
                _report_sharers(target, policy)

    def _forecaster(self, name: str) -> Forecaster:
        if self._resolve is not None:
            return self._resolve(name)
        forecaster: Forecaster = Registry().create("forecasters", name)
        return forecaster


def _report_sharers(target: Any, policy: CachePolicy) -> None:
    for name in sharers(target):
        policy.warn(f"{name} shares the denoiser: it is accelerated too while the context is open.")
