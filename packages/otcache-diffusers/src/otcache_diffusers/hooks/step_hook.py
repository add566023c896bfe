"""What a run is driven by: one object that is asked at every denoiser call."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.errors import ExecutionError
from otcache_core.notices import notify
from otcache_diffusers.hooks.auxiliary import AuxiliaryUse
from otcache_diffusers.hooks.prediction import AsIs, OutputSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RunInfo:
    """One run of a sampler.

    Attributes:
        num_steps: N, the number of sampler steps of this run.
        grid: s_0 .. s_N, float64, shape (N + 1,); all NaN where nothing tells it (a bare module, a
            loop without a grid).
        space: the quantity in which the policy sees and gives outputs.
    """

    num_steps: int
    grid: NDArray[np.float64]
    space: OutputSpace = field(default_factory=AsIs)


class StepHook(ABC):
    """Decides at every denoiser call whether the denoiser is called at all.

    The executor, the probe and the evaluator are three policies on one driver. Within a run the
    order is: ``begin``, then for each step t = 0, 1, ... and each branch ``before``; where it gave
    None, ``shorten``; where that gave None, ``observe`` and ``after``; then ``stepped``; last ``end``.
    Step 0 comes first and steps never repeat. What ``before`` gives and ``after`` gets is in the run's
    own quantity: velocity predictions come and go as epsilon
    (:class:`~otcache_diffusers.hooks.prediction.NoiseSpace`). ``shorten`` and ``observe`` give the
    denoiser's outputs themselves.

    Attributes:
        watches: whether ``stepped`` is asked for; where it is not, a loop's states are not copied.
        keeps: whether what ``before`` gave last is the policy's own, so that nothing may be written
            into it.
        apart: whether a denoiser that takes over from another has branches of its own, as it must for
            what happens inside it. Else they go on: an output is the same quantity whoever computes it.
    """

    watches: bool = True
    keeps: bool = True
    apart: bool = False

    @abstractmethod
    def begin(self, run: RunInfo) -> None:
        """A run starts: called once, at the first denoiser call of step 0."""

    @abstractmethod
    def before(self, step: int, branch: str) -> Any | None:
        """The output to return instead of calling the denoiser, or None to call it.

        Called once per step and branch; must not sync with the device when it gives an output.

        Args:
            step: t, position in the run.
            branch: the pipeline's own name (``cond``, ``uncond``) where it sets one, else ``call``,
                ``call#2``, ... in the order of calls.
        """

    def shorten(self, step: int, branch: str, compute: Callable[[], Any]) -> Any | None:
        """The output of a denoiser call with part of its work left out, or None to call it in full.

        Called once per step and branch where ``before`` gave None; must not sync with the device.

        Args:
            step: t.
            branch: as in ``before``.
            compute: calls the denoiser.
        """
        return None

    def observe(self, step: int, branch: str, compute: Callable[[], Any]) -> Any:
        """Call the denoiser in full and return its very output; what happens inside may be looked at."""
        return compute()

    @abstractmethod
    def after(self, step: int, branch: str, output: Any) -> None:
        """The denoiser was called and returned ``output``."""

    @abstractmethod
    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """The sampler went from x_t to x_{t+1}; never called for a bare module or if not asked for.

        Args:
            step: t.
            sample: x_t, latents of the whole batch.
            model_output: v_t, after guidance.
            next_sample: x_{t+1}.
        """

    @abstractmethod
    def end(self, completed: bool) -> None:
        """The run is over.

        Args:
            completed: False where it broke off. A pipeline whose call returns before step N without an
                interrupt, as one with ``denoising_end`` does, has completed its run.
        """

    def skips(self, step: int, branch: str) -> bool:
        """Whether ``before`` will give an output; asked where a network could be left out.

        May be asked any number of times, and must not sync with the device.
        """
        return False

    def fed(self, network: str, use: AuxiliaryUse) -> None:
        """A step is over in which a network network was asked for.

        Args:
            network: the pipeline's name for it, such as ``controlnet``.
            use: its calls.
        """
        logger.debug("%s: %s", network, use)

    def lost(self, reason: str) -> None:
        """Take notice of a run whose steps cannot be counted, and which is computed without the policy.

        Args:
            reason: why, in a whole sentence.

        Raises:
            ExecutionError: unless the policy can do without the run.
        """
        raise ExecutionError(reason)

    def warn(self, message: str) -> None:
        """Something could not be done as planned; a notice unless a policy keeps it."""
        notify(message)

    def note(self, message: str) -> None:
        """Something is done in another way than is best, and nothing is wrong; logged unless kept."""
        logger.info(message)


class NoOp(StepHook):
    """Stands where a policy was: asks for nothing and holds nothing."""

    watches = False

    def begin(self, run: RunInfo) -> None:
        """Nothing."""

    def before(self, step: int, branch: str) -> Any | None:
        return None

    def after(self, step: int, branch: str, output: Any) -> None:
        """Nothing."""

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Nothing."""

    def end(self, completed: bool) -> None:
        """Nothing."""

    def lost(self, reason: str) -> None:
        """Nothing."""
