"""Where in a run we are, told by the order of denoiser calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_diffusers.driver.arguments import Arguments
from otcache_diffusers.driver.clock import Clock
from otcache_diffusers.driver.conductor import Conductor
from otcache_diffusers.driver.policy import RunInfo
from otcache_diffusers.driver.tree import first_tensor


class LoopClock(Clock):
    """In a loop: the position is the number of calls since the loop began.

    Steps are reported with the first tensor argument of a step's first call as x_t, the output of
    its last call as v_t, and x_{t+1} from the next step or the loop's result.

    Args:
        loop: tells when it begins and returns.
        conductor: what is told.
        num_steps: N, where the loop does not tell it.
        renew: called when a run is announced.
    """

    def __init__(
        self,
        loop: Loop,
        conductor: Conductor,
        num_steps: int | None,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop, self._conductor, self._num_steps = loop, conductor, num_steps
        self._renew = renew
        self._calls = 0
        self._state: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    def __enter__(self) -> LoopClock:
        self._loop.observe(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.observe(None)

    def loop_begins(self, num_steps: int | None) -> None:
        """A run begins.

        Raises:
            ExecutionError: if nothing tells its number of steps.
        """
        n = num_steps or self._num_steps
        if n is None:
            raise ExecutionError(
                "the loop's number of steps must be known: give sample_fn an argument num_steps, "
                "or otcache.loop(...) num_steps= or grid=."
            )
        info = RunInfo(n, self._loop.grid_for(n))
        self._calls, self._state, self._output = 0, None, None
        self._renew()
        self._conductor.announce(lambda arguments: info)

    def arrive(self, arguments: Arguments) -> None:
        if self._calls % self._loop.calls_per_step == 0:
            state = arguments.state
            if self._calls and self._conductor.running:
                self._conductor.advance(self._triple(state))
            self._state = self._kept(state)

    def left(self, output: Any) -> None:
        self._calls += 1
        self._output = self._kept(first_tensor(output))

    def loop_ends(self, result: Any) -> None:
        """The loop returned ``result``.

        Raises:
            ExecutionError: if it never called the denoiser.
        """
        if self._calls == 0:
            raise ExecutionError(
                f"the sampler never called the denoiser ({type(self._loop.denoiser).__name__}): "
                "pass the very module that sample_fn calls to otcache.loop(...)."
            )
        if self._conductor.running and self._calls % self._loop.calls_per_step == 0:
            self._conductor.advance(self._triple(first_tensor(result)))
        self._conductor.finish(False)

    def loop_fails(self) -> None:
        """The loop raised."""
        self._conductor.finish(False)

    def _kept(self, seen: torch.Tensor | None) -> torch.Tensor | None:
        """A copy, where anybody looks at it: the loop may write into what it has."""
        return seen.detach().clone() if seen is not None and self._conductor.watches else None

    def _triple(
        self, following: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        if self._state is None or self._output is None or following is None:
            return None
        return self._state, self._output, following


class BareClock(Clock):
    """In a foreign loop: a run is N ``calls_per_step`` calls, and the next call begins another.

    A run that broke off unseen is noticed where the next one's batch has another shape, or its time
    argument is a number and jumps back to the first one.

    Args:
        conductor: what is told.
        num_steps: N.
        calls_per_step: denoiser calls of one sampler step.
    """

    def __init__(self, conductor: Conductor, num_steps: int, calls_per_step: int) -> None:
        self._conductor, self._per_step = conductor, calls_per_step
        self._info = RunInfo(num_steps, np.full(num_steps + 1, np.nan))
        self._calls = 0
        self._shape: tuple[int, ...] = ()
        self._start: Any = None
        self._time: Any = None

    def __enter__(self) -> BareClock:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was attached."""

    def arrive(self, arguments: Arguments) -> None:
        if not self._conductor.running or self._restarted(arguments):
            self._calls = 0
            self._shape, self._start = arguments.shape, arguments.timestep
            self._conductor.announce(lambda arguments: self._info)
        self._time = arguments.timestep

    def left(self, output: Any) -> None:
        self._calls += 1
        if self._calls % self._per_step == 0:
            self._conductor.advance()

    def _restarted(self, arguments: Arguments) -> bool:
        if self._calls % self._per_step == 0 and arguments.shape != self._shape:
            return True
        time = arguments.timestep
        numbers = isinstance(time, (int, float)) and isinstance(self._start, (int, float))
        return numbers and time == self._start and time != self._time
