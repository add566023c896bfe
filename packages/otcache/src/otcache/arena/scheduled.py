"""A baseline that is a schedule: published rules on whole outputs, and otcache itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from otcache.arena.tuning import Tuning
from otcache.running import accelerate
from otcache.targets import choose
from otcache_core import OtcacheError, Schedule
from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest


class ScheduledBaseline(Baseline):
    """Tunes one schedule a budget on calibration samples, and runs it by otcache's executor.

    Attributes:
        probe: name of the probe that records calibration samples; None for the first that supports them.
        executor: name of the executor; None for the first that supports the target.
    """

    by_budget = True
    probe: str | None = None
    executor: str | None = None

    @abstractmethod
    def schedules(
        self, tuning: Tuning, budgets: Sequence[int]
    ) -> tuple[dict[int, Schedule], int | None]:
        """One schedule a budget, and the evaluations that tuning took; None where it came tuned."""

    def supports(self, target: Any, request: SampleRequest) -> str:
        try:
            choose(self.registry, "probes", target, self.probe)
            choose(self.registry, "executors", target, self.executor)
        except OtcacheError as error:
            return str(error)
        return self.unfit(target)

    def unfit(self, target: Any) -> str:
        """Why this rule knows nothing for such a target; empty where it does, as it always is by default."""
        return ""

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        tuning = Tuning(target, request, self.registry, probe_name=self.probe)
        found, nfe = self.schedules(tuning, budgets)
        stored = {str(b): msgspec.json.decode(msgspec.json.encode(s)) for b, s in found.items()}
        return {"schedules": stored, "nfe": nfe}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        found = []
        for budget in budgets:
            stored = measured["schedules"][str(budget)]
            schedule = msgspec.convert(stored, Schedule)
            found.append(
                BaselineSetting(f"B = {budget}", {"schedule": stored}, num_steps, schedule.computed)
            )
        return found

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        schedule = msgspec.convert(setting.values["schedule"], Schedule)
        with accelerate(target, schedule, executor=self.executor, registry=self.registry):
            yield
