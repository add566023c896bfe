"""Count a loop's steps by its denoiser calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_core.loop_run import LOOP_UNDER_WAY, refuse_late_run, threads_inside
from otcache_diffusers.hooks.arguments import Arguments, Time, TimeArgument
from otcache_diffusers.hooks.call_times import ADAPTIVE, CallTimes, DeferredChecks, HostTimes
from otcache_diffusers.hooks.loop_states import LoopStates, Seen
from otcache_diffusers.hooks.run_state import RunState
from otcache_diffusers.hooks.step_hook import RunInfo, StepTracker

RAGGED = (
    "the calls of one step must carry one time, as in the first step, got two: a branch has come or "
    "gone, so a forecast may have gone to the wrong one. Keep guidance on for the whole run, or let "
    "denoiser= be a function that guides inside, called as loop.denoiser(...)."
)
ELSEWHERE = (
    "sample_fn calls the denoiser in threads of its own, whose calls cannot be distinguished from others': "
    "call it in the thread that runs sample_fn, or by asyncio.to_thread(...) or "
    "contextvars.copy_context().run(...), one call after the other."
)
UNKNOWN = (
    "the loop's number of steps must be known: give sample_fn an argument num_steps, or otcache.loop(...) "
    "num_steps= or grid=."
)
STARTS = (
    "the schedule counts steps from where a run begins: plan one for runs that begin there, or give "
    f"otcache.loop(...) its grid= as a function of the steps. {ADAPTIVE}"
)


class LoopSteps(StepTracker):
    """Count the denoiser calls since the loop began.

    Steps are those that :class:`LoopStates` sees, with x_{t+1} from the next step's first call or
    the loop's result.

    Args:
        loop: reports when it begins and returns.
        run_state: what is advanced.
        num_steps: N, if the loop does not give it.
        renew: called when a run is announced.
        states: makes x_t and v_t of calls, for hooks that watch.
    """

    def __init__(
        self,
        loop: Loop,
        run_state: RunState,
        num_steps: int | None,
        renew: Callable[[], None] = lambda: None,
        states: LoopStates | None = None,
    ) -> None:
        self._loop, self._run_state, self._num_steps = loop, run_state, num_steps
        self._states = states or LoopStates(None, None)
        self._renew, self._per_step = renew, loop.calls_per_step
        self._time_of = TimeArgument(loop.denoiser)
        self._times, self._checks, self._host = CallTimes(), DeferredChecks(), HostTimes()
        self._live = threading.Lock()
        self._calls = self._whole = self._strays = 0
        self._arguments = Arguments((), {})

    def __enter__(self) -> LoopSteps:
        self._loop.observe(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.observe(None)

    def loop_begins(self, num_steps: int | None) -> None:
        """Begin a run.

        Raises:
            ExecutionError: if another one has not ended, or the request it belongs to was abandoned.
        """
        refuse_late_run()
        if not self._live.acquire(blocking=False):
            raise ExecutionError(
                "one loop must serve one run at a time, got a second before the first has ended: "
                "give each thread a loop with a denoiser of its own."
            )
        try:
            self._begin(self._num_steps if num_steps is None else num_steps)
        except BaseException:
            self._live.release()
            raise

    def _begin(self, n: int | None) -> None:
        if not n:
            self._calls = self._whole = self._strays = 0
            if n is None:
                self._run_state.uncounted(UNKNOWN)
            return
        info = RunInfo(n, self._grid(n))
        if self._whole != n * self._per_step:  # another grid, which may begin elsewhere
            self._host = HostTimes()
        self._calls, self._whole, self._strays = 0, n * self._per_step, 0
        self._checks = DeferredChecks()
        self._renew()
        self._run_state.announce(lambda arguments: info)

    def _grid(self, n: int) -> NDArray[np.float64]:
        """Return s_0 .. s_N as the loop gives them; all NaN if it gives none."""
        try:
            return self._loop.grid_for(n)
        except Exception as error:  # the user's function
            self._run_state.warn_aloud(
                f"grid= of otcache.loop(...) fails for {n} steps, and noise levels are not known "
                f"({type(error).__name__}: {error}): let it return s_0 .. s_N."
            )
            return np.full(n + 1, np.nan)

    def expects(self) -> bool:
        """Return whether the loop's own sampler makes this call, and no other loop that it calls."""
        running, here = self._live.locked(), LOOP_UNDER_WAY.get()
        self._strays += running and here is None
        return running and here is self._loop

    def busy(self, besides: Collection[int]) -> bool:
        """Return whether the loop runs in a thread that is not among these."""
        return any(thread not in besides for thread in threads_inside(self._loop))

    def before_call(self, arguments: Arguments) -> None:
        """Count a call, which begins a step or is another one of it.

        Raises:
            ExecutionError: if the run has had all its calls, or those of one step carry two times.
        """
        if not self._whole:  # a run of unknown length, or of no steps
            return
        if self._calls >= self._whole:
            self._refuse_more()
        if self._calls == 0 or self._per_step > 1:
            self._compare_times(self._time_of.of(arguments))
        if self._calls % self._per_step == 0:
            self._step_begins(arguments)
        self._arguments = arguments

    def _step_begins(self, arguments: Arguments) -> None:
        watched = self._run_state.watches
        state = self._states.arrive(arguments, self._calls == 0) if watched else None
        if self._calls and self._run_state.running:
            self._run_state.advance(self._seen(state) if watched else None)
        if watched and self._calls:
            self._states.open(state)

    def _refuse_more(self) -> None:
        raise ExecutionError(
            f"the loop must make {self._whole} denoiser calls ({self._steps}), got one more: set "
            f"calls_per_step={self._per_step + 1} in otcache.loop(...) if each step makes as many, "
            "or num_steps= (a number, or a function of the steps asked for such as "
            f"lambda n: 2 * n - 1 for Heun's method) if there are more steps. {ADAPTIVE}"
        )

    def _compare_times(self, time: Time) -> None:
        first = self._calls % self._per_step == 0
        if self._calls == 0:
            self._times.begin(time.value)
            if message := self._host.begin(time.value, STARTS):
                self._run_state.warn_aloud(message, "runs begin at other times")
        elif first:
            self._times.advance(time.value)
        elif self._checks.check(self._times.apart(time.value), RAGGED):
            raise ExecutionError(RAGGED)

    def after_call(self, output: Any) -> None:
        """Count a call, and keep its output for a hook that watches."""
        self._calls += 1
        if self._run_state.watches:
            self._states.called(self._arguments, output)

    def loop_ends(self, result: Any) -> None:
        """End the run of a loop that returned ``result``.

        Raises:
            ExecutionError: if it never called the denoiser, or a check on the device has
                failed.
        """
        try:
            self._check()
            if self._run_state.running and self._calls % self._per_step == 0:
                watched = self._run_state.watches
                self._run_state.advance(self._seen(self._states.end(result)) if watched else None)
        finally:
            self._run_state.finish(False)
            self._live.release()

    def loop_fails(self) -> None:
        """End the run of a loop that raised."""
        self._run_state.finish(False)
        self._live.release()

    def _check(self) -> None:
        if not self._whole:
            return
        if self._calls == 0 and self._strays:
            self._run_state.uncounted(ELSEWHERE)
            return
        if self._calls == 0:
            self._run_state.uncounted(
                f"the sampler never called the denoiser ({type(self._loop.denoiser).__name__}): "
                "pass the very module that sample_fn calls to otcache.loop(...)."
            )
            return
        for message in self._checks.settle():
            raise ExecutionError(message)
        if self._calls <= self._whole - self._per_step:
            self._run_state.warn_aloud(
                f"the loop returned after {self._calls} of {self._whole} denoiser calls "
                f"({self._steps}): set num_steps= or calls_per_step= in otcache.loop(...) to what it "
                f"makes. {ADAPTIVE}"
            )

    @property
    def _steps(self) -> str:
        return f"{self._whole // self._per_step} steps, calls_per_step={self._per_step}"

    def _seen(self, following: torch.Tensor | None) -> Seen | None:
        return self._states.close(self._run_state.step, following)
