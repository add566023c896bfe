"""The oracle of reuse: what it gives, made without otcache."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from torch import nn

from otcache_core import Schedule


class Repeating(nn.Module):
    """A denoiser that repeats itself at skipped steps.

    Args:
        inner: the real one.
        calls: its calls of one step.
        steps: N.
        computed: of these.
    """

    def __init__(self, inner: nn.Module, calls: int, steps: int, computed: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self._width, self._made = inner, calls, 0
        self._steps, self._computed = steps, computed
        self._last: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(self._made, self._width)
        self._made += 1
        if step % self._steps in self._computed:
            self._last[branch] = self.inner(*args, **kwargs)
        return self._last[branch]


def repeated(case: tiny.Case, schedule: Schedule, **call: Any) -> torch.Tensor:
    """Return what reuse by this schedule gives."""
    steps, computed = schedule.num_steps, schedule.computed
    name = "transformer" if hasattr(case.pipe, "transformer") else "unet"
    plain = getattr(case.pipe, name)
    setattr(case.pipe, name, Repeating(plain, len(case.branches), steps, computed))
    try:
        return case(steps, **call)
    finally:
        setattr(case.pipe, name, plain)
