"""How guidance calls the denoiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from otcache_core.contracts import SampleRequest
from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks import denoisers_of
from otcache_diffusers.recording.quiet import quiet
from otcache_diffusers.recording.sampling import Sampler


def calls_per_step(target: Any, request: SampleRequest) -> int:
    """1 where guidance is one batch or none, 2 where its branches are calls of their own.

    Runs the first sample in full: cache-dit tells branches apart by counting calls, and would mix them
    after a single step that makes another number.

    Raises:
        ExecutionError: if the number is another, or differs from step to step.
    """
    one = replace(request, prompts=request.prompts[:1], seeds=request.seeds[:1], batch_size=1)
    with quiet(target), _counted(denoisers_of(target)[""], target.scheduler) as steps:
        Sampler(target, one)([0])
    return _steady([len(calls) for calls in steps[1:]])


@contextmanager
def _counted(denoiser: nn.Module, scheduler: Any) -> Iterator[list[list[None]]]:
    """Calls of the denoiser before each step of the scheduler, latest first; the first is open."""
    steps: list[list[None]] = [[]]
    step, own = scheduler.step, vars(scheduler)
    before = own.get("step")

    def stepped(*args: Any, **kwargs: Any) -> Any:
        steps.insert(0, [])
        return step(*args, **kwargs)

    handle = denoiser.register_forward_pre_hook(lambda module, args: steps[0].append(None))
    own["step"] = stepped
    try:
        yield steps
    finally:
        handle.remove()
        del own["step"]
        if before is not None:
            own["step"] = before


def _steady(numbers: list[int]) -> int:
    if len(set(numbers)) != 1 or numbers[0] not in (1, 2):
        found = ", ".join(map(str, sorted(set(numbers))))
        raise ExecutionError(
            f"the denoiser must be called once a step, or twice, at every step, got {found} calls: "
            "cache-dit tells the branches of guidance apart by counting them."
        )
    return numbers[0]
