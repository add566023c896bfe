"""Contract of a cache executor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.from_registry import FromRegistry
from otcache_core.contracts.storage import Storage
from otcache_core.schedule import Schedule

#: The schedule of a run from its grid s_0 .. s_N, shape (N + 1,); all NaN where it is not known.
SchedulePlan = Callable[[NDArray[np.float64]], Schedule]


@dataclass
class RunReport:
    """What happened under an executor, summed over all runs since it was entered.

    Attributes:
        planned: computed steps of the schedule, per run.
        runs: number of finished runs.
        computed: denoiser calls made, per branch.
        skipped: denoiser calls avoided, or made without the blocks that an executor passes over,
            per branch.
        companions: calls (made, avoided) of networks that only feed the denoiser, by name: a
            ControlNet is left out of steps in which no denoiser is called.
        storage: how outputs were kept.
        cached_bytes: bytes of cached outputs held now on the devices they were computed on.
        peak_cached_bytes: the most ever held there.
        cached_host_bytes: bytes held now of outputs that were moved to host memory.
        peak_cached_host_bytes: the most ever held there.
        seconds: wall time of the denoising loops, first step's start to last step's end.
        uncounted: whether a run's steps could not be counted, so that it was computed in full.
        warnings: what could not be done as planned, and why.
    """

    planned: tuple[int, ...] = ()
    runs: int = 0
    computed: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    companions: dict[str, tuple[int, int]] = field(default_factory=dict)
    storage: Storage = field(default_factory=Storage)
    cached_bytes: int = 0
    peak_cached_bytes: int = 0
    cached_host_bytes: int = 0
    peak_cached_host_bytes: int = 0
    seconds: float = 0.0
    uncounted: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether no run of the target was seen, whole or not."""
        return not (self.runs or self.computed or self.skipped or self.uncounted)

    def __str__(self) -> str:
        """Say in one line what was done, and below it what could not be done as planned."""
        calls = {b: (self.computed.get(b, 0), self.skipped.get(b, 0)) for b in self._branches}
        made = ", ".join(f"{b} {made} of {made + left}" for b, (made, left) in calls.items())
        kept = (self.peak_cached_bytes + self.peak_cached_host_bytes) / 2**20
        runs = f"{self.runs} run{'' if self.runs == 1 else 's'} in {self.seconds:.3g} s"
        line = f"{runs}; denoiser calls made: {made or 'none'}; {kept:.3g} MiB kept at most"
        return "\n".join((line, *(f"  {warning}" for warning in self.warnings)))

    @property
    def _branches(self) -> tuple[str, ...]:
        return tuple(self.computed | self.skipped)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "storage": asdict(self.storage)}

    def hold(self, on_device: int, on_host: int) -> None:
        """Note the bytes held now."""
        self.cached_bytes, self.cached_host_bytes = on_device, on_host
        self.peak_cached_bytes = max(self.peak_cached_bytes, on_device)
        self.peak_cached_host_bytes = max(self.peak_cached_host_bytes, on_host)


#: What a report says of a context that was left with nothing done, where steps were to be skipped.
NOTHING_RAN = (
    "the target made no run while it was accelerated, so nothing was skipped: run the very pipeline, "
    "otcache.loop(...) or module that was accelerated, inside the context."
)


class RunHandle(ABC):
    """What ``with executor.attach(...) as run`` gives; pickles and copies carry its report only."""

    @property
    @abstractmethod
    def report(self) -> RunReport:
        """The report so far; final after exit."""

    @property
    def running(self) -> bool:
        """Whether a run is known to be under way; False where an executor cannot tell."""
        return False

    def busy(self, besides: Collection[int] = ()) -> bool:
        """Return whether a call of the target is known to be under way, before and after its steps too.

        Args:
            besides: threads that do not count, by their identifiers.
        """
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return ReportedRun, (self.report,)

    def __str__(self) -> str:
        return str(self.report)


class ReportedRun(RunHandle):
    """Hold the report of runs made elsewhere, as a pickle or a copy of a handle does.

    Args:
        report: of these runs.
    """

    def __init__(self, report: RunReport) -> None:
        self._report = report

    @property
    def report(self) -> RunReport:
        return self._report


class CacheExecutor(FromRegistry, ABC):
    """Run a live pipeline or module by a schedule.

    Laws: under the all-compute schedule outputs are bit-identical, however they are kept; on exit,
    also by exception, nothing remains on the module and ``inspect.signature(forward)`` is
    unchanged; other instances are never touched; a skipped step makes no call of the denoiser, or
    at least none of what the executor caches in it, and no device-to-host sync. The forecaster that a
    schedule names is that of ``self.registry``.
    """

    @abstractmethod
    def supports(self, target: Any) -> str:
        """Return "" if ``target`` can be run, else the reason why not.

        Must be cheap and change nothing.
        """

    @abstractmethod
    def attach(
        self,
        target: Any,
        schedule: Schedule | SchedulePlan,
        *,
        strict: bool = False,
        calls_per_step: int | None = None,
        storage: Storage | None = None,
        grid: NDArray[np.float64] | None = None,
    ) -> AbstractContextManager[RunHandle]:
        """A context in which ``target`` runs by ``schedule``.

        Args:
            target: a pipeline, ``otcache.loop(...)`` or a bare module, as ``supports`` accepts it.
            schedule: plain data, whose runs of another step count are computed in full with a
                notice, or refused under ``strict``; or a plan, asked at the start of each run.
            strict: refuse instead of noticing.
            calls_per_step: denoiser calls of one sampler step of a bare module; None where the user
                did not tell, which may be taken for 1 only as long as nothing contradicts.
            storage: how outputs are kept; None: as they are.
            grid: s_0 .. s_N of a bare module's runs, shape (N + 1,); None where it is not known.

        Raises:
            ExecutionError: if the target is already accelerated or not supported, or specifies itself how
                many calls a step makes or on which grid, or the executor cannot keep outputs that way.
        """
