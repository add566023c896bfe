"""The executor that caches residuals of block stacks, and its step hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from otcache_core.contracts import CacheExecutor, Forecaster, RunHandle, ScheduleByGrid
from otcache_core.errors import ExecutionError
from otcache_core.schedule import Schedule
from otcache_diffusers.execution.block_calls import passed_over, recorded
from otcache_diffusers.execution.block_stacks import Residuals, Stack, block_lists, no_blocks
from otcache_diffusers.execution.block_trace import Trace
from otcache_diffusers.execution.cached_steps import CachedSteps
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import (
    DenoiserCall,
    RunInfo,
    Severity,
    StepHook,
    denoisers_of,
    unsupported,
)


class BlockExecutor(CacheExecutor):
    """Run targets by a schedule, with the denoiser called at every step.

    On a skipped step its block stacks are passed over: see :class:`CachedBlocks`. A skipped step costs what
    comes before and after the blocks, and its error is smaller where that matters; docs/method.md says when
    to use it.

    References:
        TeaCache (arXiv 2411.19108) and LeMiCa (arXiv 2511.00090) cache at this level.

    Args:
        resolve: gives the forecaster of a name; by default the registry that made the executor.
    """

    def __init__(self, resolve: Callable[[str], Forecaster] | None = None) -> None:
        self._inner = TorchExecutor.made_by(self.registry, resolve, cache_blocks)

    def supports(self, target: Any) -> str:
        """Say why the denoisers have no blocks to pass over; "" if they have."""
        reason = unsupported(target)
        if reason:
            return reason
        return next(filter(None, map(no_blocks, denoisers_of(target).values())), "")

    def attach(
        self, target: Any, schedule: Schedule | ScheduleByGrid, **options: Any
    ) -> AbstractContextManager[RunHandle]:
        """Return a context in which the target runs by a schedule."""
        reason = self.supports(target)
        if reason:
            raise ExecutionError(f"{reason}: cache whole outputs (executor 'torch').")
        return self._inner.attach(target, schedule, **options)


def cache_blocks(target: Any, cache: CachedSteps) -> StepHook:
    """Cache what the block stacks of the denoiser add to their inputs."""
    return CachedBlocks(cache, lambda: denoisers_of(target))


class CachedBlocks(StepHook):
    """On a skipped step call the denoiser, but pass its block stacks over.

    Each stack h -> h + R(h) then gives h + sum_r A_{t,r} R_{k_r}: what is embedded before the stacks and
    projected after them is of this very step. The stacks are found anew in the first computed step of
    each run and branch; if there are none the run is computed, and the report says why.

    Args:
        cache: decides, keeps and combines, as it does with outputs.
        denoisers: gives the denoisers with blocks, by name; called at the start of each run.
    """

    watches = False
    inside = True

    def __init__(
        self, cache: CachedSteps, denoisers: Callable[[], Mapping[str, nn.Module]]
    ) -> None:
        self._cache, self._denoisers = cache, denoisers
        self._lists: dict[str, list[nn.Module]] = {}
        self._reason = ""
        self._stacks: dict[str, tuple[Stack, ...]] = {}

    def begin(self, run: RunInfo) -> None:
        """Search the denoisers for lists of blocks."""
        self._stacks, self._lists = {}, {}
        for name, module in self._denoisers().items():
            self._reason = no_blocks(module)
            self._lists |= {} if self._reason else block_lists(module, f"{name}." if name else "")
        self._cache.begin(run)

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Pass the stacks over, if residuals of the branch are cached."""
        stacks = self._stacks.get(call.branch)
        residuals = self._cache.combined(call) if stacks else None
        if not stacks or residuals is None:
            return None
        try:
            return passed_over(stacks, residuals, call.compute)
        except ExecutionError as error:
            self._fail(call.branch, error, skipped=call.branch)
            return None

    def _fail(self, branch: str, error: ExecutionError, skipped: str | None = None) -> None:
        """Compute a branch whose blocks do not run as they did."""
        self._stacks[branch] = ()
        self._cache.fail(error, skipped)

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser, and cache the residuals that a later step needs."""
        output, residuals = self._recorded(call)
        self._cache.keep(call, residuals or None)
        return output

    def _recorded(self, call: DenoiserCall) -> tuple[Any, Residuals]:
        """Return the output, and the residual of each stack if a later step needs them."""
        stacks = self._stacks.get(call.branch)
        if stacks == () or not self._cache.needs(call):
            return call.compute(), ()
        if stacks is None:
            return self._traced(call)
        try:
            return recorded(stacks, call.compute)
        except ExecutionError as error:
            self._fail(call.branch, error)
            return call.compute(), ()

    def _traced(self, call: DenoiserCall) -> tuple[Any, Residuals]:
        found = Trace(self._lists)(call.compute)
        self._stacks[call.branch] = found.stacks
        if not found.stacks:
            reason = found.reason or self._reason or "no list of blocks ran"
            text = f"the blocks cannot be passed over ({reason}): cache whole outputs."
            self.report(text, Severity.WARNING)
        return found.output, found.residuals

    def end(self, completed: bool) -> None:
        """Release the residuals and the stacks."""
        self._stacks = {}
        self._cache.end(completed)

    def report(self, message: str, severity: Severity) -> None:
        """Keep it for the report."""
        self._cache.report(message, severity)
