"""Solvers on the noise levels of a flow-matching pipeline.

:class:`FlowMatchScheduler` replaces the pipeline's scheduler. A :class:`FlowStepper` makes its steps: by
two-step Adams-Bashforth, or by a scheduler of diffusers that knows flow predictions.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from otcache_diffusers.compat import is_a


class FlowStepper(ABC):
    """Make steps along given noise levels; one run at a time.

    Attributes:
        order: denoiser calls of one step of the pipeline, as diffusers counts them.
    """

    order: int = 1

    @abstractmethod
    def begin(self, sigmas: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Begin a run, and forget the one before.

        Args:
            sigmas: s_0 .. s_n, of the pipeline's own scheduler, shape (n + 1,).
            timesteps: t_0 .. t_{n-1}, what the denoiser is given, shape (n,).

        Returns:
            The same for the calls to be made: those given, or with levels repeated.
        """

    @abstractmethod
    def step(self, i: int, v: Tensor, t: Any, x: Tensor) -> Tensor:
        """Return x_{i+1}, given x_i and the denoiser's output v_i at timestep t."""


class FlowMatchScheduler:
    """The scheduler of a flow-matching pipeline, with the step of another solver.

    Everything but the step is done by a copy of the pipeline's own scheduler. So every pipeline that runs
    with ``FlowMatchEulerDiscreteScheduler`` runs with this, and n steps visit the very same levels.

    Args:
        own: the pipeline's ``FlowMatchEulerDiscreteScheduler``; not changed.
        stepper: makes the steps.
    """

    def __init__(self, own: Any, stepper: FlowStepper) -> None:
        self._own, self._stepper = copy.deepcopy(own), stepper
        self.order = stepper.order
        self.sigmas, self.timesteps = self._own.sigmas, self._own.timesteps
        self._index: int | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_own" not in self.__dict__:  # while being copied
            raise AttributeError(name)
        return getattr(self._own, name)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Begin a run, with the arguments of the pipeline's own scheduler."""
        self._own.set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        self._index = None
        self.sigmas, self.timesteps = self._stepper.begin(self._own.sigmas, self._own.timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
        **_: Any,
    ) -> tuple[Tensor]:
        """Make one step; a tuple is returned always: pipelines take its first element."""
        if self._index is None:
            self._index = self._start(timestep)
        i, self._index = self._index, self._index + 1
        return (self._stepper.step(i, model_output, timestep, sample),)

    def _start(self, timestep: Any) -> int:
        begin = self._own.begin_index
        return int((self.timesteps == timestep).nonzero()[0]) if begin is None else int(begin)


def is_flow_euler(scheduler: Any) -> bool:
    """Return whether :class:`FlowMatchScheduler` can replace it."""
    return is_a(scheduler, "FlowMatchEulerDiscreteScheduler")


@final
class AdamsBashforthStepper(FlowStepper):
    r"""Integrate the linear extrapolation of the last two velocities.

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


@final
class DiffusersStepper(FlowStepper):
    """Make steps with a scheduler of diffusers that knows flow predictions.

    Args:
        inner: the scheduler; its noise levels are set from outside.
        first: the most that s_0 may be.
        order: denoiser calls of a step; if it is 2, every level but the first is visited twice.
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
