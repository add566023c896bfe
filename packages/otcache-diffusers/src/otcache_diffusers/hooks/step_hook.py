"""What decides at every denoiser call of a run, what counts its steps, and what both know of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.errors import ExecutionError
from otcache_core.notices import notify
from otcache_diffusers.hooks.arguments import Arguments
from otcache_diffusers.hooks.auxiliary import AuxiliaryUse
from otcache_diffusers.hooks.prediction import AsIs, OutputSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RunInfo:
    """One run of a sampler.

    Attributes:
        num_steps: N, the number of sampler steps of this run.
        grid: s_0 .. s_N, float64, shape (N + 1,); all NaN if it is not known (a bare module, a
            loop without a grid).
        space: the quantity in which the hook sees and gives outputs.
    """

    num_steps: int
    grid: NDArray[np.float64]
    space: OutputSpace = field(default_factory=AsIs)


class StepHook(ABC):
    """Decide at every denoiser call whether the denoiser is called at all.

    The executor, the probe and the evaluator are three hooks on one driver. Within a run the
    order is: ``begin``, then for each step t = 0, 1, ... and each branch ``before``; if it gave
    None, ``shorten``; if that gave None, ``observe`` and ``after``; then ``stepped``; last ``end``.
    Step 0 comes first and steps never repeat. What ``before`` gives and ``after`` gets is in the run's
    own quantity: velocity predictions come and go as epsilon
    (:class:`~otcache_diffusers.hooks.prediction.NoiseSpace`). ``shorten`` and ``observe`` give the
    denoiser's outputs themselves.

    Attributes:
        watches: whether ``stepped`` is called; if not, a loop's states are not copied.
        keeps: whether what ``before`` gave last is the hook's own, so that nothing may be written
            into it.
        inside: whether it works inside of denoiser calls, so that a denoiser that takes over from another
            has branches of its own. Else they go on: an output is the same quantity, computed by either.
    """

    watches: bool = True
    keeps: bool = True
    inside: bool = False

    @abstractmethod
    def begin(self, run: RunInfo) -> None:
        """Start a run: called once, at the first denoiser call of step 0."""

    @abstractmethod
    def before(self, step: int, branch: str) -> Any | None:
        """Return the output to use instead of calling the denoiser, or None to call it.

        Called once per step and branch; must not synchronize when it gives an output.

        Args:
            step: t, position in the run.
            branch: the pipeline's own name (``cond``, ``uncond``) if it sets one, else ``call``,
                ``call#2``, ... in the order of calls.
        """

    def shorten(self, step: int, branch: str, compute: Callable[[], Any]) -> Any | None:
        """Return the output of a denoiser call with part of its work omitted, or None to call it in full.

        Called once per step and branch if ``before`` gave None; must not synchronize.

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
        """Take the output of a denoiser that was called."""

    @abstractmethod
    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Take a sampler step from x_t to x_{t+1}; never called for a bare module, or unless ``watches``.

        Args:
            step: t.
            sample: x_t, latents of the whole batch.
            model_output: v_t, after guidance.
            next_sample: x_{t+1}.
        """

    @abstractmethod
    def end(self, completed: bool) -> None:
        """End the run.

        Args:
            completed: False if it broke off. A pipeline whose call returns before step N without an
                interrupt, as one with ``denoising_end`` does, has completed its run.
        """

    def skips(self, step: int, branch: str) -> bool:
        """Return whether ``before`` will give an output, so that an auxiliary network can be omitted.

        May be called any number of times, and must not synchronize.
        """
        return False

    def fed(self, network: str, use: AuxiliaryUse) -> None:
        """Take what an auxiliary network did in a step that is over.

        Args:
            network: the pipeline's name for it, such as ``controlnet``.
            use: its calls.
        """
        logger.debug("%s: %s", network, use)

    def uncounted(self, reason: str) -> None:
        """Note a run whose steps cannot be counted, and which is computed without the hook.

        Args:
            reason: why, in a whole sentence.

        Raises:
            ExecutionError: unless the hook can do without the run.
        """
        raise ExecutionError(reason)

    def warn(self, message: str) -> None:
        """Report that something could not be done as planned; a notice unless a hook keeps it."""
        notify(message)

    def note(self, message: str) -> None:
        """Report that something is done in another way than is best; logged unless a hook keeps it."""
        logger.info(message)


class NoOp(StepHook):
    """Take the place of a hook whose context was left."""

    watches = False

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    begin = before = after = stepped = end = uncounted = _nothing


class StepTracker(ABC):
    """Announce runs to a run state and advance its steps; a context manager."""

    @abstractmethod
    def arrive(self, arguments: Arguments) -> None:
        """Note that the denoiser is about to be called."""

    @abstractmethod
    def left(self, output: Any) -> None:
        """Note that the denoiser's output, computed or forecast, goes back to the sampler."""

    @abstractmethod
    def __enter__(self) -> StepTracker: ...

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...

    def expects(self) -> bool:
        """Return whether a call made here can be of the run under way; end one that is over."""
        return True

    def claims(self) -> bool:
        """Return whether this call is of the run under way or announced, if several share a denoiser."""
        return self.expects()

    @property
    def alive(self) -> bool:
        """Whether the run under way, if any, is known to go on."""
        return True

    def busy(self, besides: Collection[int]) -> bool:
        """Return whether a call of the target is on the stack of a thread that is not among these."""
        return False
