"""Another solver on the noise levels of a flow-matching scheduler."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from otcache_diffusers.compat import is_a


class FlowStepper(ABC):
    """Steps along given noise levels; one run at a time.

    Attributes:
        order: denoiser calls of one step of the pipeline, as diffusers counts them.
    """

    order: int = 1

    @abstractmethod
    def begin(self, sigmas: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """A run begins: forget the one before.

        Args:
            sigmas: s_0 .. s_n, of the pipeline's own scheduler, shape (n + 1,).
            timesteps: t_0 .. t_{n-1}, what the denoiser is told, shape (n,).

        Returns:
            The same of the calls to be made: those given, or with levels repeated.
        """

    @abstractmethod
    def step(self, i: int, v: Tensor, t: Any, x: Tensor) -> Tensor:
        """x_{i+1} from x_i and the denoiser's output v_i at timestep t."""


class FlowMatchGrid:
    """The scheduler of a flow-matching pipeline, of which only the step is another's.

    Whatever the pipeline asks for is answered by a copy of its own scheduler, which is asked for the
    noise levels in just the way the pipeline asks. So every pipeline that runs with
    ``FlowMatchEulerDiscreteScheduler`` runs with this, and n steps visit the very same levels.

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
        """As the pipeline's own scheduler."""
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
        """One step, of which a tuple is returned always: pipelines take its first element."""
        if self._index is None:
            self._index = self._start(timestep)
        i, self._index = self._index, self._index + 1
        return (self._stepper.step(i, model_output, timestep, sample),)

    def _start(self, timestep: Any) -> int:
        begin = self._own.begin_index
        return int((self.timesteps == timestep).nonzero()[0]) if begin is None else int(begin)


def is_flow_euler(scheduler: Any) -> bool:
    """Whether :class:`FlowMatchGrid` can stand in for it."""
    return is_a(scheduler, "FlowMatchEulerDiscreteScheduler")
