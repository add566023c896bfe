"""Where in a run we are, told by a pipeline's scheduler."""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import MethodType
from typing import Any

from otcache_core.errors import ExecutionError
from otcache_diffusers.driver.arguments import Arguments
from otcache_diffusers.driver.bar import Bar
from otcache_diffusers.driver.conductor import Conductor
from otcache_diffusers.driver.grid import sigma_grid
from otcache_diffusers.driver.home import Calls, Home
from otcache_diffusers.driver.policy import RunInfo
from otcache_diffusers.driver.rewinds import Rewinds
from otcache_diffusers.driver.space_of import output_space, predicts_velocity
from otcache_diffusers.driver.start import first_position
from otcache_diffusers.driver.taps import Taps, tapped

_REPLACED = (
    "the pipeline's scheduler was replaced after it was accelerated: its runs are computed in full. "
    "Set the scheduler first, then enter the context."
)
_THREADS = (
    "one pipeline must serve one run at a time, got a call from another thread during a run: load the "
    "pipeline twice."
)


class Clock(ABC):
    """Announces runs to a conductor and advances its steps; a context manager."""

    @abstractmethod
    def arrive(self, arguments: Arguments) -> None:
        """The denoiser is about to be asked for."""

    @abstractmethod
    def left(self, output: Any) -> None:
        """The denoiser's output, computed or forecast, goes back to the sampler."""

    @abstractmethod
    def __enter__(self) -> Clock: ...

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...

    def expects(self) -> bool:
        """Whether a call of one of the networks can be of the run under way; ends one that is over."""
        return True

    @property
    def alive(self) -> bool:
        """Whether the run under way, if any, is known to go on."""
        return True


class SchedulerClock(Clock):
    """The position is the number of ``scheduler.step`` calls since ``set_timesteps``.

    So duplicate timesteps (Heun, PNDM) and bf16 collisions do not matter. The timestep the denoiser
    is given is compared on the device, and read once on exit. A run ends at its last position or with
    the pipeline's progress bar, whichever comes first; a call from outside the pipeline's own, during
    it or after, is none of the run's.

    Args:
        pipeline: whose scheduler it is. The scheduler's ``step`` and ``set_timesteps`` are wrapped on
            the instance, ``scale_model_input`` where the denoiser predicts a velocity, and the
            pipeline's ``progress_bar``.
        conductor: what is told.
        renew: called when a run is announced.

    Raises:
        ExecutionError: on entry, if the scheduler is already watched.
    """

    def __init__(self, pipeline: Any, conductor: Conductor, renew: Callable[[], None]) -> None:
        self._pipeline, self._conductor, self._renew = pipeline, conductor, renew
        self._scheduler = pipeline.scheduler
        self._calls = Calls(type(pipeline))
        self._home: Home | None = None
        self._token = object()
        self._rewinds = Rewinds(self._scheduler)
        self._stack = ExitStack()

    def __enter__(self) -> SchedulerClock:
        if tapped(self._scheduler):
            raise ExecutionError(
                f"{type(self._scheduler).__name__} is already watched by otcache: give each "
                "pipeline a scheduler of its own."
            )
        taps = {"step": self._step, "set_timesteps": self._set_timesteps}
        if predicts_velocity(self._scheduler) and hasattr(self._scheduler, "scale_model_input"):
            taps["scale_model_input"] = self._scale
        self._signature = _signature(self._scheduler)
        with ExitStack() as stack:
            stack.enter_context(Taps(self._scheduler, taps))
            if hasattr(self._pipeline, "progress_bar"):
                stack.enter_context(Taps(self._pipeline, {"progress_bar": self._progress_bar}))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._home = None
        if error[0] is None and self._conductor.times.failed():
            self._conductor.warn(
                "the denoiser was called at other timesteps than the scheduler's: a callback or "
                "another pipeline moved the clock, so steps may have been mistaken."
            )

    def expects(self) -> bool:
        """Whether this call comes from the pipeline call that the run belongs to.

        Calls of another pipeline inside a callback are none of the run's; neither are those after the
        run's call has ended, which ends the run. Another thread's are let through, to be refused.
        """
        home = self._home
        if home is None or not home.known or home.here:
            return True
        if not self._elsewhere and self._conductor.expectant and home.around:
            # Announced by a call around the one that denoises, as a subclass's or a stage's.
            self._home = Home(self._calls)
            return True
        if not home.alive:
            self._end(False)
            return True
        return self._elsewhere

    @property
    def _elsewhere(self) -> bool:
        """Whether the run is of a pipeline's call in another thread."""
        home = self._home
        return home is not None and home.known and home.thread != threading.get_ident()

    @property
    def alive(self) -> bool:
        return self._home is not None and self._home.known and self._home.alive

    def arrive(self, arguments: Arguments) -> None:
        """See that the scheduler that tells is still the pipeline's, and was not put back.

        Raises:
            ExecutionError: if the run is another thread's, which is not disturbed.
        """
        if self._elsewhere:
            raise ExecutionError(_THREADS)
        if self._pipeline.scheduler is not self._scheduler:
            self._end(False)
            self._conductor.warn_aloud(_REPLACED)
        elif self._conductor.running and self._rewinds.found(arguments.timestep):
            self._conductor.give_up(self._rewinds.REASON)

    def left(self, output: Any) -> None:
        """Nothing to do: the scheduler tells."""

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._elsewhere and self.alive:
            raise ExecutionError(_THREADS)
        result = original(*args, **kwargs)
        self._renew()
        self._conductor.announce(self._run_info)
        self._home, self._token = Home(self._calls), object()
        self._rewinds.begin()
        return result

    def _progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        bar = original(*args, **kwargs)
        # One that opens during a run is inside its loop, and says nothing of it.
        return bar if self._conductor.running else Bar(bar, partial(self._loop_over, self._token))

    def _loop_over(self, token: object, whole: bool) -> None:
        # The bar of a run before may be left late, in another thread or by an exception kept.
        if token is self._token and not self._conductor.expectant:
            self._end(whole and not getattr(self._pipeline, "_interrupt", False))

    def _end(self, completed: bool) -> None:
        self._home = None
        self._conductor.finish(completed)

    def _scale(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._conductor.scaled = original(*args, **kwargs)
        return self._conductor.scaled

    def _step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind(*args, **kwargs).arguments
        result = original(*args, **kwargs)
        following = result[0] if isinstance(result, tuple) else result.prev_sample
        if self._rewinds.stepped(given.get("timestep")):
            self._conductor.give_up(self._rewinds.REASON)
        self._conductor.advance((given["sample"], given["model_output"], following))
        if not self._conductor.running and not self._conductor.expectant:
            self._home = None
        return result

    def _run_info(self, arguments: Arguments) -> RunInfo:
        start = first_position(self._scheduler, arguments.timestep)
        self._conductor.times.begin(self._scheduler.timesteps[start:])
        grid = sigma_grid(self._scheduler)[start:]
        return RunInfo(len(grid) - 1, grid, output_space(self._scheduler, start))


def _signature(scheduler: Any) -> inspect.Signature:
    """Of the scheduler's own step: a wrapper put on the instance may hide it."""
    own = getattr(type(scheduler), "step", None)
    return inspect.signature(scheduler.step if own is None else MethodType(own, scheduler))
