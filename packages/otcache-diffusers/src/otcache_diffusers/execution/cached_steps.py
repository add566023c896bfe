"""The executor's step hook: on a skipped step return a forecast from cached outputs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts import CacheStorage, Forecaster, RunReport, ScheduleByGrid
from otcache_core.contracts.planning import NamedForecaster
from otcache_core.errors import ExecutionError, OtcacheError, OtcacheNotice
from otcache_core.notices import heard, notify
from otcache_core.schedule import Schedule, Span
from otcache_diffusers.execution.output_cache import OutputCache
from otcache_diffusers.hooks import AuxiliaryUse, RunInfo, StepHook, combine, usable_grid


class CachedSteps(StepHook):
    r"""On a skipped step t of the span (k -> j) return sum_r A_{t,r} v_{k_r} instead of v_t.

    Each branch is forecast from its own outputs of exactly the scheduled steps; if one is missing
    the step is computed, and if the forecaster gives no finite coefficients for a span its steps are.
    Runs that cannot follow the schedule, of another step count for one, are computed in full.

    Args:
        schedule: the computed steps and weights, or what gives them for each run's grid.
        resolve: gives the forecaster, which gives A, of a name.
        report: filled as runs go by.
        strict: refuse what would only be computed in full.
        storage: how outputs are kept; None: as they are.
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
    ) -> None:
        self._schedule_for = schedule if callable(schedule) else lambda grid: schedule
        self._resolve = functools.cache(resolve)  # plugins are looked up once, not every run
        self._report, self._strict = report, strict
        if isinstance(schedule, Schedule):
            self._take(schedule)
        report.storage = storage or CacheStorage()
        self._cache = OutputCache(report.storage)
        self._branches: dict[str, BranchForecasts] = {}
        self._run: RunInfo | None = None
        self._skipped, self._why, self._started = 0, "", 0.0

    def begin(self, run: RunInfo) -> None:
        """Take the schedule of a run that starts."""
        self._started, self._skipped = _now(), 0
        self._branches, self._run, self._why = {}, None, "no reason is known."
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
            self._run = run
            return
        message = f"a run of {run.num_steps} steps cannot follow a schedule of {n}"
        if self._strict:
            raise ExecutionError(f"{message}: plan one for {run.num_steps} steps.")
        self._say(f"{message}: it is computed in full.")

    def _take(self, schedule: Schedule) -> None:
        self._schedule, self._forecaster = schedule, self._resolve(schedule.forecaster)
        self._report.planned = schedule.computed
        self._to_skip = schedule.num_steps - schedule.budget

    def uncounted(self, reason: str) -> None:
        """Report a run that is computed in full; under strict refuse it."""
        if self._strict:
            raise ExecutionError(reason)
        self._report.uncounted = True
        self._say(f"{reason} Runs are computed in full.")

    def before(self, step: int, branch: str) -> Any | None:
        """Return the forecast of a skipped step, None if it must be computed."""
        if self._run is None:
            return None
        forecast = self._branch(branch, self._run).forecasts.get(step)
        if forecast is None:
            return None
        outputs = self._cache.get(branch, forecast.steps)
        if outputs is None:
            self.warn(self._cache.why_not(branch, forecast.steps))
            return None
        try:
            output = combine(outputs, forecast.coefficients)
        except Exception as error:  # unknown outputs may raise anything
            self.fail(error)
            return None
        self._count(branch, 1)
        self._drop(branch, step)
        self._report.hold(*self._cache.held)
        self.keeps = self._cache.holds(output)
        return output

    def skips(self, step: int, branch: str) -> bool:
        """Return whether a step will be forecast."""
        if self._run is None:
            return False
        forecast = self._branch(branch, self._run).forecasts.get(step)
        return forecast is not None and self._cache.has(branch, forecast.steps)

    def fed(self, network: str, use: AuxiliaryUse) -> None:
        """Count the calls of an auxiliary network."""
        computed, skipped = self._report.auxiliary.get(network, (0, 0))
        self._report.auxiliary[network] = computed + use.computed, skipped + use.skipped
        if use.wasted:
            self.note(f"{network} ran on skipped steps, so the speedup is below N/B.")

    def needs(self, step: int, branch: str) -> bool:
        """Return whether a later step of the run will be forecast from the output of this one."""
        return (
            self._run is not None and self._branch(branch, self._run).last_use.get(step, -1) > step
        )

    def after(self, step: int, branch: str, output: Any) -> None:
        """Cache the output of a computed step, if a later one needs it."""
        self._report.computed[branch] = self._report.computed.get(branch, 0) + 1
        if self._run is None:
            return
        needed = self.needs(step, branch)
        self._drop(branch, step)
        try:
            self._cache.notice(output)
            if needed and output is not None:  # None: a denoiser without block stacks
                self._cache.put(branch, step, output)
        except Exception as error:  # unknown outputs may raise anything
            self.fail(error)
        self._report.hold(*self._cache.held)

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
        self._run = None
        self._cache.clear()
        self._say(f"{_text(error)} The rest of the run is computed.")

    def _count(self, branch: str, skipped: int) -> None:
        self._skipped += skipped
        self._report.skipped[branch] = self._report.skipped.get(branch, 0) + skipped

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Do nothing: the executor does not watch the sampler's state."""

    def end(self, completed: bool) -> None:
        """Complete the report of a run, and release its outputs."""
        self._report.seconds += _now() - self._started
        self._report.runs += completed
        self._cache.clear()
        self._report.hold(*self._cache.held)
        if self._cache.overflowed():
            self.warn(
                "an output was beyond the range of fp16, in which outputs are kept: forecasts from it "
                "are infinite. Keep outputs in bf16."
            )
        if not completed:
            self.warn("a run broke off before its last step.")
            return
        self._warn_of_missing()
        if self._run is not None and self._to_skip and not self._skipped:
            self._say(f"no call was skipped although {self._to_skip} steps were to be: {self._why}")

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
        """Report branches that have steps of their own and made no call."""
        named = {name for name, _ in (*self._schedule.branches, *self._schedule.branch_weights)}
        missing = sorted(named - self._branches.keys()) if self._run is not None else []
        if missing:
            self.warn(
                f"the schedule plans for {_listed(missing)}, which no call of a run was: it had "
                f"{_listed(self._branches)}. Name branches as run.report does."
            )

    def _branch(self, branch: str, run: RunInfo) -> BranchForecasts:
        if branch not in self._branches:
            grid = usable_grid(run.grid)
            found = BranchForecasts.of(self._schedule, branch, self._forecaster, grid)
            self._branches[branch] = found
            if found.refusal and self._strict:
                raise ExecutionError(found.refusal)
            if found.refusal:
                # No second reason is given for the steps without a forecast.
                self._to_skip = min(self._to_skip, len(found.forecasts))
                self._say(f"{found.refusal} Their steps are computed.")
        return self._branches[branch]

    def _drop(self, branch: str, step: int) -> None:
        """Release what no later step needs."""
        last_use = self._branch(branch, self._run).last_use if self._run is not None else {}
        self._cache.drop(branch, [k for k, last in last_use.items() if last <= step])


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


@dataclass(frozen=True)
class Forecast:
    """The output of a skipped step: the sum of coefficient times output over computed steps.

    Attributes:
        steps: k, k_1, ...; those with coefficient 0 are omitted unless all are.
        coefficients: A_{t,0}, A_{t,1}, ...
    """

    steps: tuple[int, ...]
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class BranchForecasts:
    """One branch of a schedule on one grid.

    Attributes:
        forecasts: by skipped step.
        last_use: by computed step whose output is needed later, the last step that needs it.
        refusal: why the steps of some spans cannot be forecast, and are computed; "" if all can.
    """

    forecasts: dict[int, Forecast]
    last_use: dict[int, int]
    refusal: str = ""

    @classmethod
    def of(
        cls, schedule: Schedule, branch: str, forecaster: Forecaster, grid: NDArray[np.float64]
    ) -> BranchForecasts:
        """Get the coefficients of every span from the forecaster, once each."""
        if not isinstance(forecaster, NamedForecaster):
            forecaster = NamedForecaster(forecaster, repr(schedule.forecaster))
        forecasts: dict[int, Forecast] = {}
        refused: dict[str, str] = {}
        for span in schedule.spans(branch):
            table = _coefficients(span, forecaster, grid) if span.skipped else None
            if isinstance(table, str):
                refused[f"({span.start} -> {span.stop})"] = table
            elif table is not None:
                forecasts.update(_fill(span, table))
        last_use = {k: t for t, forecast in forecasts.items() for k in forecast.steps}
        return cls(forecasts, last_use, _refusal(forecaster.title, refused))


def _coefficients(
    span: Span, forecaster: NamedForecaster, grid: NDArray[np.float64]
) -> NDArray[np.float64] | str:
    """Return A, shape (skipped steps, outputs); if the forecaster gives none, what it did instead."""
    table = forecaster.table(span, grid)
    if isinstance(table, OtcacheError):
        return f"{type(table).__name__}: {table}"
    if isinstance(table, str) or np.isfinite(table).all():
        return table
    return str(table.tolist())


def _refusal(title: str, refused: dict[str, str]) -> str:
    """Say what a forecaster gave instead of coefficients, by the first of the spans; "" for none."""
    if not refused:
        return ""
    spans = f"the span{'s' if len(refused) > 1 else ''} {', '.join(refused)}"
    return (
        f"forecaster {title} must give finite coefficients for {spans}, got "
        f"{next(iter(refused.values()))}: use another forecaster, or another grid= if two steps of yours "
        "are alike."
    )


def _fill(span: Span, table: NDArray[np.float64]) -> dict[int, Forecast]:
    """Return the forecasts of a span; one of zero still has the form of an output."""
    found = {}
    for t, row in zip(span.skipped, table, strict=True):
        pairs = zip((span.start, *span.history), row, strict=False)
        terms = [(k, float(a)) for k, a in pairs if a] or [(span.start, 0.0)]
        found[t] = Forecast(*zip(*terms, strict=True))
    return found
