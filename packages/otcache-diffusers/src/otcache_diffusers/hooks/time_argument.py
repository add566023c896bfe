"""Which argument of a denoiser is its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch

from otcache_diffusers.hooks.arguments import TIME_NAMES, Arguments, parameters_of


class Time(NamedTuple):
    """The time of a call.

    Attributes:
        value: a number or a tensor; None where it cannot be told.
        certain: False where it may as well be something that is the same at every step, as a class is.
    """

    value: Any
    certain: bool


@final
class TimeArgument:
    """Finds the time among the arguments of a denoiser's calls.

    By the usual names of arguments and of parameters. Where a denoiser has none of them, a number or a
    vector that comes second is taken for the time, or one that comes first before a larger tensor; it is
    certain unless it is of integers.

    Args:
        denoiser: a module, compiled or not, or any other callable.
    """

    def __init__(self, denoiser: Any) -> None:
        names = parameters_of(denoiser)
        self._place = next((names.index(name) for name in TIME_NAMES if name in names), None)

    def of(self, arguments: Arguments) -> Time:
        """Return the time of a call."""
        if any(name in arguments.kwargs for name in TIME_NAMES):
            return Time(arguments.timestep, True)
        if self._place is not None:
            given = dict(enumerate(arguments.args))
            return Time(given.get(self._place), True)
        return _guessed(arguments.args)


def _guessed(args: Sequence[Any]) -> Time:
    first, second = (*args, None, None)[:2]
    if isinstance(second, torch.Tensor) and second.ndim > 1 and _certain(first) is not None:
        return Time(first, bool(_certain(first)))
    if isinstance(second, torch.Tensor):
        return Time(second if second.ndim <= 1 else None, second.is_floating_point())
    return Time(second, isinstance(second, float))


def _certain(value: Any) -> bool | None:
    """Whether a value floats, as a class does not; None where it is neither a number nor a vector."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() if value.ndim <= 1 else None
    return isinstance(value, float) if isinstance(value, (int, float)) else None
