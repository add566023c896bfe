"""A scheduler of diffusers on given noise levels."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from otcache_diffusers.baselines.fewer_steps.flow_grid import FlowStepper


@final
class DiffusersStepper(FlowStepper):
    """Steps with a scheduler of diffusers that knows flow predictions.

    Args:
        inner: the scheduler; its noise levels are set from outside.
        first: the most that s_0 may be.
        order: denoiser calls of a step; where it is 2, every level but the first is visited twice.
    """

    def __init__(self, inner: Any, first: float = 1.0, order: int = 1) -> None:
        self._inner, self._first, self.order = inner, first, order

    def begin(self, sigmas: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        self._inner.set_timesteps(len(timesteps))
        s = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(self.order), sigmas[-1:]])
        t = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(self.order)])
        self._inner.sigmas, self._inner.timesteps = s.cpu().clamp(max=self._first), t
        return s, t

    def step(self, i: int, v: Tensor, t: Any, x: Tensor) -> Tensor:
        if self._inner.step_index is None:
            self._inner.set_begin_index(i)
        stepped: Tensor = self._inner.step(v, t, x, return_dict=False)[0]
        return stepped
