"""Two-step Adams-Bashforth."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from otcache_diffusers.baselines.fewer_steps.flow_grid import (
    FlowMatchGrid,
    FlowStepper,
    is_flow_euler,
)
from otcache_diffusers.baselines.fewer_steps.sampler import FewStepSampler


@final
class AdamsBashforth(FewStepSampler):
    """Two-step Adams-Bashforth on the noise levels of a flow-matching pipeline."""

    @property
    def source(self) -> str:
        return "two-step Adams-Bashforth, by otcache"

    def why_not(self, own: Any) -> str:
        if not is_flow_euler(own):
            kind = type(own).__name__
            return f"is written for FlowMatchEulerDiscreteScheduler, the pipeline has {kind}"
        return "the pipeline's sampler adds noise" if own.config.stochastic_sampling else ""

    def scheduler(self, own: Any) -> Any:
        return FlowMatchGrid(own, TwoSteps())


@final
class TwoSteps(FlowStepper):
    r"""The linear extrapolation of the last two velocities, integrated.

    .. math::

        x_{i+1} = x_i + h_i \big((1 + r/2) v_i - (r/2) v_{i-1}\big), \quad
        h_i = s_{i+1} - s_i, \quad r = h_i / h_{i-1}

    The first step is Euler's. Computed in float32, and cast to the type of v.

    References:
        Hairer, Nørsett, Wanner: Solving Ordinary Differential Equations I (1993), section III.5.
    """

    def __init__(self) -> None:
        self._s: list[float] = []
        self._before: tuple[Tensor, float] | None = None

    def begin(self, sigmas: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        self._s, self._before = sigmas.tolist(), None
        return sigmas, timesteps

    def step(self, i: int, v: Tensor, t: Any, x: Tensor) -> Tensor:
        h = self._s[i + 1] - self._s[i]
        slope = v.to(torch.float32)
        if self._before is not None:
            older, h_before = self._before
            r = h / h_before
            slope = (1 + r / 2) * slope - r / 2 * older.to(torch.float32)
        self._before = v, h
        return (x.to(torch.float32) + h * slope).to(v.dtype)
