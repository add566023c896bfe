"""The executor that caches residuals of block stacks, and its step hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from otcache_core.contracts import CacheExecutor, Forecaster, RunHandle, ScheduleByGrid
from otcache_core.errors import ExecutionError
from otcache_core.schedule import Schedule
from otcache_diffusers.execution.block_calls import passed_over, recorded
from otcache_diffusers.execution.block_stacks import Residuals, Stack, block_lists, no_blocks
from otcache_diffusers.execution.block_trace import Trace
from otcache_diffusers.execution.cached_steps import CachedSteps
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import AuxiliaryUse, RunInfo, StepHook, denoisers_of, unsupported


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
        self._shortened = False
        self._stacks: dict[str, tuple[Stack, ...]] = {}
        self._residuals: Residuals | None = None

    def begin(self, run: RunInfo) -> None:
        """Search the denoisers for lists of blocks."""
        self._stacks, self._lists, self._shortened = {}, {}, False
        for name, module in self._denoisers().items():
            self._reason = no_blocks(module)
            self._lists |= {} if self._reason else block_lists(module, f"{name}." if name else "")
        self._cache.begin(run)

    def before(self, step: int, branch: str) -> Any | None:
        """Return None: no output is known without calling the denoiser."""
        return None

    def shorten(self, step: int, branch: str, compute: Callable[[], Any]) -> Any | None:
        """Pass the stacks over, if residuals of the branch are cached."""
        stacks = self._stacks.get(branch)
        residuals = self._cache.before(step, branch) if stacks else None
        if not stacks or residuals is None:
            return None
        self._shortened = True
        try:
            return passed_over(stacks, residuals, compute)
        except ExecutionError as error:
            self._fail(branch, error, skipped=branch)
            return None

    def _fail(self, branch: str, error: ExecutionError, skipped: str | None = None) -> None:
        """Compute a branch whose blocks do not run as they did."""
        self._stacks[branch] = ()
        self._cache.fail(error, skipped)

    def observe(self, step: int, branch: str, compute: Callable[[], Any]) -> Any:
        """Call the denoiser, and record residuals that a later step needs."""
        if not self._cache.needs(step, branch):
            return compute()
        if branch not in self._stacks:
            return self._trace(branch, compute)
        if not self._stacks[branch]:
            return compute()
        try:
            output, self._residuals = recorded(self._stacks[branch], compute)
        except ExecutionError as error:
            self._fail(branch, error)
            return compute()
        return output

    def _trace(self, branch: str, compute: Callable[[], Any]) -> Any:
        found = Trace(self._lists)(compute)
        self._stacks[branch], self._residuals = found.stacks, found.residuals
        if not found.stacks:
            reason = found.reason or self._reason or "no list of blocks ran"
            self.warn(f"the blocks cannot be passed over ({reason}): cache whole outputs.")
        return found.output

    def after(self, step: int, branch: str, output: Any) -> None:
        """Cache the residuals of a computed call."""
        self._cache.after(step, branch, self._residuals or None)
        self._residuals = None

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Do nothing: the executor does not watch the sampler's state."""

    def end(self, completed: bool) -> None:
        """Release the residuals and the stacks."""
        self._residuals, self._stacks = None, {}
        self._cache.end(completed)

    def fed(self, network: str, use: AuxiliaryUse) -> None:
        """Count the calls of an auxiliary network, and note those at skipped steps."""
        self._cache.fed(network, use)
        if self._shortened and use.computed:
            self.note(f"{network} runs at every step at the level of blocks: speedup below N/B.")

    def uncounted(self, reason: str) -> None:
        """Report a run that is computed in full."""
        self._cache.uncounted(reason)

    def warn(self, message: str) -> None:
        """Keep it for the report."""
        self._cache.warn(message)

    def note(self, message: str) -> None:
        """Keep it for the report."""
        self._cache.note(message)
