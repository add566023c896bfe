"""The baselines that take fewer steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_diffusers.baselines.fewer_steps.own import Own
from otcache_diffusers.baselines.fewer_steps.sampler import FewStepSampler
from otcache_diffusers.driver import unsupported


class FewerSteps(Baseline):
    """The pipeline called with as many steps as make B evaluations, its scheduler exchanged meanwhile.

    A method of two calls a step makes 2n - 1 of them in n steps, so it lands on the odd number at or
    below B.
    Each baseline of this kind only names its sampler.
    """

    by_budget = True

    def __init__(self) -> None:
        self.source = self.sampler.source

    @property
    @abstractmethod
    def sampler(self) -> FewStepSampler:
        """Makes the scheduler."""

    def supports(self, target: Any, request: SampleRequest) -> str:
        if isinstance(target, nn.Module):
            return "a bare module has no sampler that could take fewer steps"
        reason = unsupported(target) or _fixed(target, request)
        if reason or isinstance(self.sampler, Own):
            return reason
        if isinstance(target, Loop):
            return "the sampler of a loop cannot be exchanged"
        return self.sampler.why_not(target.scheduler)

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """How many calls a step of this sampler makes; nothing is run."""
        if isinstance(target, Loop):
            return {"order": 1}
        return {"order": int(getattr(self.sampler.scheduler(target.scheduler), "order", 1))}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        if measured.get("order", 1) == 1:
            return [BaselineSetting(f"B = {b}", {}, b, tuple(range(b))) for b in budgets]
        return [
            BaselineSetting(f"{2 * n - 1} calls in {n} steps", {}, n)
            for n in ((b + 1) // 2 for b in budgets)
        ]

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        return self._exchanged(target)

    @contextmanager
    def _exchanged(self, target: Any) -> Iterator[None]:
        if isinstance(target, Loop):
            yield
            return
        own = target.scheduler
        reason = self.sampler.why_not(own)
        if reason:
            raise ExecutionError(f"{self.source}: {reason}.")
        target.scheduler = self.sampler.scheduler(own)
        try:
            yield
        finally:
            target.scheduler = own


def _fixed(target: Any, request: SampleRequest) -> str:
    """Why the number of steps cannot be chosen."""
    for name in ("sigmas", "timesteps"):
        if request.call.get(name) is not None:
            return f"the call names its own {name}, so the number of steps is fixed"
    if isinstance(target, Loop) and not _takes_steps(target):
        return "the loop's sample_fn does not take its number of steps"
    return ""


def _takes_steps(target: Loop) -> bool:
    try:
        return target.steps_of([""], [0], 1) == 1 and target.steps_of([""], [0], 2) == 2
    except TypeError:
        return False
