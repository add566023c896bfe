"""Call a pipeline up to the moment it sets its timesteps."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from otcache_core.errors import ExecutionError
from otcache_diffusers.recording.quiet import quiet


class _Enough(BaseException):
    """Ends a rehearsal; no pipeline catches it."""


@dataclass(frozen=True)
class Rehearsal:
    """What a call did to its scheduler.

    Attributes:
        scheduler: a copy of the pipeline's, its timesteps set.
        arguments: named arguments ``set_timesteps`` was given, such as ``mu``.
    """

    scheduler: Any
    arguments: dict[str, Any]


def rehearse(pipe: Any, scheduler: Any, call: Mapping[str, Any]) -> Rehearsal:
    """Run ``pipe(**call)`` on a copy of ``scheduler``, and stop once the timesteps are set.

    Encodes the prompt but never calls the denoiser; the pipeline and its generators stay as they are.

    Raises:
        ExecutionError: if the call never sets timesteps.
    """
    stage, own = copy.deepcopy(scheduler), pipe.scheduler
    seen: dict[str, Any] = {}
    original = stage.set_timesteps

    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        seen.update(inspect.signature(original).bind(*args, **kwargs).arguments)
        raise _Enough

    stage.set_timesteps = set_timesteps
    before = dict(vars(pipe))
    pipe.scheduler = stage
    try:
        with quiet(pipe), torch.no_grad():
            pipe(**_harmless(pipe, call))
    except _Enough:
        del stage.set_timesteps
        return Rehearsal(stage, seen)
    finally:
        pipe.scheduler = own
        vars(pipe).clear()
        vars(pipe).update(before)
    raise ExecutionError(f"{type(pipe).__name__} must set timesteps in its call, and did not.")


def _harmless(pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """The call with a generator of its own, and a prompt where none is given."""
    known = inspect.signature(type(pipe).__call__).parameters
    arguments = dict(call)
    if "generator" in known:
        arguments["generator"] = torch.Generator().manual_seed(0)
    if "prompt" in known and not any(name.startswith("prompt") for name in arguments):
        arguments["prompt"] = ""
    return arguments
