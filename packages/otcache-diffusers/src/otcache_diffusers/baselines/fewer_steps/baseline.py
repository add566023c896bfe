"""The baselines that take fewer steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

from torch import nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError, OtcacheError, expected
from otcache_core.loop import Loop
from otcache_diffusers.baselines.fewer_steps.adams_bashforth import AdamsBashforth
from otcache_diffusers.baselines.fewer_steps.borrowed import DPMPP, EULER, HEUN, UNIPC
from otcache_diffusers.baselines.fewer_steps.sampler import FewStepSampler
from otcache_diffusers.compat import DIFFUSERS
from otcache_diffusers.hooks import unsupported


@final
class Own(FewStepSampler):
    """The pipeline as it is, or the user's own loop, called with fewer steps."""

    @property
    def source(self) -> str:
        return f"{DIFFUSERS}, the pipeline's own sampler"

    def why_not(self, own: Any) -> str:
        return ""

    def scheduler(self, own: Any) -> Any:
        return own


SAMPLERS: dict[str, FewStepSampler] = {
    "own": Own(),
    "euler": EULER,
    "adams-bashforth": AdamsBashforth(),
    "dpmpp": DPMPP,
    "unipc": UNIPC,
    "heun": HEUN,
}


@final
class FewerSteps(Baseline):
    """The pipeline called with as many steps as make B evaluations, its scheduler exchanged meanwhile.

    A method of two calls a step makes 2n - 1 of them in n steps, so it lands on the odd number at or
    below B.

    Args:
        sampler: one of :data:`SAMPLERS`; ``own`` keeps the scheduler, and takes a user's own loop too.

    Raises:
        OtcacheError: if there is no such sampler.
    """

    by_budget = True

    def __init__(self, sampler: str = "own") -> None:
        if sampler not in SAMPLERS:
            raise OtcacheError(expected("sampler", sampler, f"one of {', '.join(SAMPLERS)}"))
        self.sampler = SAMPLERS[sampler]
        self.source = self.sampler.source

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
