"""What decides at every denoiser call of a run, what counts its steps, and what both know of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.errors import ExecutionError
from otcache_core.notices import notify
from otcache_diffusers.hooks.arguments import Arguments
from otcache_diffusers.hooks.prediction import AsIs, CallPosition, OutputSpace
from otcache_diffusers.hooks.trees import separate

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


class DenoiserCall:
    """One call of a denoiser, which a step hook answers.

    Attributes:
        step: t, position in the run.
        branch: the pipeline's own name (``cond``, ``uncond``) if it sets one, else ``call``, ``call#2``, ...
            in the order of calls.
        compute: calls the denoiser and returns its output.
        converts: whether forecasts are in another quantity than the output: see :meth:`to_output`.
    """

    __slots__ = ("_arguments", "_scaled", "_space", "branch", "compute", "converts", "step")

    def __init__(
        self,
        step: int,
        branch: str,
        compute: Callable[[], Any],
        arguments: Arguments,
        scaled: Tensor | None,
        space: OutputSpace,
    ) -> None:
        self.step, self.branch, self.compute = step, branch, compute
        self._arguments, self._scaled, self._space = arguments, scaled, space
        self.converts = space.converts

    @property
    def position(self) -> CallPosition:
        """What the output space must know of the call."""
        return CallPosition(self.step, self.branch, self._scaled, self._arguments.state)

    @property
    def problem(self) -> str:
        """Why the output cannot be converted to the run's quantity; "" if it can."""
        return self._space.problem(self.position)

    def to_run_quantity(self, output: Any) -> Any:
        """Return a computed output in the run's quantity, in memory other than the state's."""
        position = self.position
        return self._space.from_output(position, separate(output, position.state))

    def to_output(self, forecast: Any, *, writable: bool = False) -> Any:
        """Return the denoiser's output that a forecast in the run's quantity represents.

        Args:
            forecast: the forecast.
            writable: it has no other owner, so it may be written into.
        """
        if not self.converts:
            return forecast
        return self._space.to_output(self.position, forecast, writable=writable)


class Severity(Enum):
    """How much a message matters.

    Attributes:
        NOTE: something is done in another way than is best.
        WARNING: something could not be done as planned.
        UNCOUNTED: the steps of a run cannot be counted, and it is computed without the hook.
    """

    NOTE = "note"
    WARNING = "warning"
    UNCOUNTED = "uncounted"


class StepHook(ABC):
    """Decide at every denoiser call whether the denoiser is called at all.

    The executor, the probe and the evaluator are three hooks on one driver. Within a run the
    order is: ``begin``, then for each step t = 0, 1, ... and each branch ``forecast``, and ``compute`` if
    that gave None; then ``stepped``; last ``end``. Step 0 comes first and steps never repeat.

    Attributes:
        watches: whether ``stepped`` is called; if not, a loop's states are not copied.
        inside: whether it works inside of denoiser calls, so that a denoiser that takes over from another
            has branches of its own. Else they go on: an output is the same quantity, computed by either.
    """

    watches: bool = True
    inside: bool = False

    @abstractmethod
    def begin(self, run: RunInfo) -> None:
        """Start a run: called once, at the first denoiser call of step 0."""

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Return the output to use instead of computing it in full, or None to compute it.

        Called once per step and branch; must not synchronize when it gives an output. A hook that works
        inside of the denoiser calls it here with part of its work omitted.
        """
        return None

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser in full, and return its very output."""
        return call.compute()

    def stepped(  # noqa: B027  # for hooks that watch
        self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor
    ) -> None:
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
        """Return whether ``forecast`` will give an output, so that an auxiliary network can be omitted.

        May be called any number of times, and must not synchronize.
        """
        return False

    def report(self, message: str, severity: Severity) -> None:
        """Report what happened: notes are logged and warnings are notices, unless a hook keeps them.

        Raises:
            ExecutionError: of a run whose steps cannot be counted, unless the hook can do without it.
        """
        if severity is Severity.UNCOUNTED:
            raise ExecutionError(message)
        if severity is Severity.WARNING:
            notify(message)
        else:
            logger.info(message)


class NoOp(StepHook):
    """Take the place of a hook whose context was left."""

    watches = False

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    begin = end = report = _nothing


class StepTracker(ABC):
    """Announce runs to a run state and advance its steps; a context manager.

    A module hook asks ``claims`` where several targets share the denoiser, then ``expects``, and calls
    ``before_call`` and ``after_call`` around a call that is of the run. Handles ask ``alive`` and ``busy`` to
    wait for their turn.
    """

    @abstractmethod
    def before_call(self, arguments: Arguments) -> None:
        """Note that the denoiser is about to be called."""

    @abstractmethod
    def after_call(self, output: Any) -> None:
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
