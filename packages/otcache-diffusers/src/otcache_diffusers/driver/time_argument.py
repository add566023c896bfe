"""Which argument of a module is its time."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple, final

import torch
from torch import nn

from otcache_diffusers.driver.arguments import TIME_NAMES, Arguments


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
    """Finds the time among the arguments of a module's calls.

    By the usual names of arguments and of parameters. Where a module has none of them, a number or a
    vector that comes second is taken for the time, and is certain unless it is of integers.

    Args:
        module: the denoiser, compiled or not.
    """

    def __init__(self, module: nn.Module) -> None:
        names = _parameters(getattr(module, "_orig_mod", module))
        self._place = next((names.index(name) for name in TIME_NAMES if name in names), None)

    def of(self, arguments: Arguments) -> Time:
        """The time of a call."""
        if any(name in arguments.kwargs for name in TIME_NAMES):
            return Time(arguments.timestep, True)
        given = dict(enumerate(arguments.args))
        if self._place is not None:
            return Time(given.get(self._place), True)
        return _guessed(given.get(1))


def _parameters(module: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # a scripted module tells none
        return []


def _guessed(value: Any) -> Time:
    if isinstance(value, torch.Tensor):
        return Time(value if value.ndim <= 1 else None, value.is_floating_point())
    return Time(value, isinstance(value, float))
