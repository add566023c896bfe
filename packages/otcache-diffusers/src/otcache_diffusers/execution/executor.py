"""The executor for every torch denoiser, and the handle of its runs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import (
    CacheExecutor,
    CacheStorage,
    Forecaster,
    RunHandle,
    RunReport,
    ScheduleByGrid,
)
from otcache_core.contracts.execution import NOTHING_RAN
from otcache_core.contracts.planning import forecaster_of
from otcache_core.schedule import Schedule
from otcache_diffusers.compat import is_pipeline
from otcache_diffusers.execution.cached_steps import CachedSteps
from otcache_diffusers.hooks import (
    Driven,
    StepHook,
    auxiliary_networks,
    denoisers_of,
    drive,
    guiders_of,
    unsupported,
)


class TorchRun(RunHandle):
    """The report of the runs inside one context."""

    def __init__(self, report: RunReport, driven: Driven) -> None:
        self._report = report
        self._driven: Callable[[], Driven | None] = weakref.ref(driven)  # it knows the target

    @property
    def report(self) -> RunReport:
        """What happened so far."""
        return self._report

    @property
    def running(self) -> bool:
        """Whether a run is known to be under way."""
        driven = self._driven()
        return driven is not None and driven.running

    def busy(self, besides: Collection[int] = ()) -> bool:
        """Return whether a call of the target is on the stack of another thread than these."""
        driven = self._driven()
        return driven is not None and driven.busy(besides)

    def close(self) -> None:
        """Forget the target, whose context was left."""
        self._driven = lambda: None


#: Makes what drives a target, from it and from the step hook that caches.
Level = Callable[[Any, CachedSteps], StepHook]


def cache_outputs(target: Any, cache: CachedSteps) -> StepHook:
    """Cache what the denoiser returns: a skipped step does not call it."""
    return cache


class TorchExecutor(CacheExecutor):
    """Run diffusers pipelines, loops and bare modules by a schedule.

    Args:
        resolve: gives the forecaster of a name; by default the registry that made the executor.
        level: what is cached.
    """

    def __init__(
        self,
        resolve: Callable[[str], Forecaster] | None = None,
        level: Level = cache_outputs,
    ) -> None:
        self._resolve, self._level = resolve, level

    def supports(self, target: Any) -> str:
        """Say why a target cannot be driven; "" if it can."""
        return unsupported(target)

    @contextmanager
    def attach(
        self,
        target: Any,
        schedule: Schedule | ScheduleByGrid,
        *,
        strict: bool = False,
        calls_per_step: int | None = None,
        storage: CacheStorage | None = None,
        grid: NDArray[np.float64] | None = None,
    ) -> Iterator[RunHandle]:
        """Run the target by a schedule in this context."""
        fixed = schedule if isinstance(schedule, Schedule) else None
        report = RunReport(planned=fixed.computed if fixed else ())
        cache = CachedSteps(
            schedule,
            self._forecaster,
            report,
            strict=strict,
            storage=storage,
            guiders=list(dict.fromkeys(type(g).__name__ for g in guiders_of(target).values())),
        )
        with drive(
            target,
            self._level(target, cache),
            num_steps=fixed.num_steps if fixed else None,
            calls_per_step=calls_per_step,
            grid=grid,
            auxiliary=_auxiliary(target, cache),
            auxiliary_calls=report.auxiliary,
        ) as driven:
            run = TorchRun(report, driven)
            try:
                yield run
                if report.idle and not (fixed and fixed.budget == fixed.num_steps):
                    cache.warn(NOTHING_RAN)
            finally:
                run.close()

    def _forecaster(self, name: str) -> Forecaster:
        if self._resolve is not None:
            return self._resolve(name)
        return forecaster_of(self.registry, name)


def _auxiliary(target: Any, cache: CachedSteps) -> list[str]:
    """Return the auxiliary networks that can be omitted in skipped steps."""
    if not is_pipeline(target) or not auxiliary_networks(target):
        return []
    shared = _shared_networks(target)
    for name, others in shared.items():
        cache.note(
            f"{name} still runs on skipped steps, so the speedup is below N/B: "
            f"{', '.join(others)} uses it too."
        )
    return [name for name in auxiliary_networks(target) if name not in shared]


def _shared_networks(target: Any) -> dict[str, list[str]]:
    """Return classes, by auxiliary network, of other live pipelines that hold it and no denoiser of ours.

    Their calls of the network, in a callback of a run of ``target`` say, could not be distinguished from
    its own.
    """
    found = {name: _holders(target, module) for name, module in auxiliary_networks(target).items()}
    if not any(found.values()):
        return {}
    own = _holders(target, *denoisers_of(target).values()).keys()
    others = {
        name: [kind for key, kind in by.items() if key not in own] for name, by in found.items()
    }
    return {name: kinds for name, kinds in others.items() if kinds}


def _holders(target: Any, *parts: Any) -> dict[int, str]:
    """Return other pipelines with any of these as an attribute, by the identity of their ``__dict__``."""
    holders: dict[int, str] = {}
    for holder in gc.get_referrers(*parts):  # which looks at every object there is, once
        attributes = holder if type(holder) is dict else getattr(holder, "__dict__", {})
        if "_internal_dict" in attributes and attributes is not vars(target):
            # The holder is the pipeline, or the ``__dict__`` of one.
            owners = (holder, *gc.get_referrers(holder))
            kinds = (type(owner).__name__ for owner in owners if is_pipeline(owner))
            holders[id(attributes)] = next(kinds, "a pipeline")
    return holders
