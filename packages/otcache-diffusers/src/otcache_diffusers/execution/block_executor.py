"""The executor that caches residuals of block stacks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import (
    CacheExecutor,
    CacheStorage,
    Forecaster,
    RunHandle,
    ScheduleByGrid,
)
from otcache_core.errors import ExecutionError
from otcache_core.schedule import Schedule
from otcache_diffusers.execution.blocks.lists import no_blocks
from otcache_diffusers.execution.blocks.policy import BlockPolicy
from otcache_diffusers.execution.cache_policy import CachePolicy
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import StepPolicy, denoisers_of, unsupported


class BlockExecutor(CacheExecutor):
    """Runs targets by a schedule, with the denoiser called at every step.

    On a skipped step its block stacks are passed over: see
    :class:`~otcache_diffusers.execution.blocks.policy.BlockPolicy`. A skipped step costs what comes before
    and after the blocks, and its error is smaller where that matters; docs/method.md says when to use it.

    References:
        TeaCache (arXiv 2411.19108) and LeMiCa (arXiv 2511.00090) cache at this level.

    Args:
        resolve: gives the forecaster of a name; by default the registry that made the executor.
    """

    def __init__(self, resolve: Callable[[str], Forecaster] | None = None) -> None:
        self._inner = TorchExecutor.made_by(self.registry, resolve, block_stacks)

    def supports(self, target: Any) -> str:
        reason = unsupported(target)
        if reason:
            return reason
        return next(filter(None, map(no_blocks, denoisers_of(target).values())), "")

    def attach(
        self,
        target: Any,
        schedule: Schedule | ScheduleByGrid,
        *,
        strict: bool = False,
        calls_per_step: int | None = None,
        storage: CacheStorage | None = None,
        grid: NDArray[np.float64] | None = None,
    ) -> AbstractContextManager[RunHandle]:
        reason = self.supports(target)
        if reason:
            raise ExecutionError(f"{reason}: cache whole outputs (executor 'torch').")
        return self._inner.attach(
            target,
            schedule,
            strict=strict,
            calls_per_step=calls_per_step,
            storage=storage,
            grid=grid,
        )


def block_stacks(target: Any, cache: CachePolicy) -> StepPolicy:
    """Cache what the block stacks of the denoiser add to their inputs."""
    return BlockPolicy(cache, lambda: denoisers_of(target))
