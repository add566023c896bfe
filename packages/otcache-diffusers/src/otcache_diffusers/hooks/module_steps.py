"""Count the steps of a sampler that is not known, by the calls of the bare module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks.arguments import Arguments, Time, TimeArgument
from otcache_diffusers.hooks.call_times import ADAPTIVE, CallTimes, DeferredChecks, HostTimes, Truth
from otcache_diffusers.hooks.run_state import RunState
from otcache_diffusers.hooks.step_hook import RunInfo, StepTracker

CONCURRENT = "one module must serve one run at a time, got a concurrent call: load the model twice."
THREADS = (
    "one module must serve one run at a time, got calls of two threads within a run: load the model "
    "twice."
)
_LOOP = "otcache.loop(...) around the sampler shows where runs begin and end"
BRANCHES = (
    "two steps in a row must carry two times, got one: set calls_per_step=2 if guidance calls the "
    "module twice a step, or calls_per_step=1 if these are steps of their own (Heun's method, times "
    f"that bfloat16 rounds alike). A run that broke off after its first call looks so too; {_LOOP}. "
    f"{ADAPTIVE}"
)
JUMPED = (
    "the time must not return to the first one within a run, and did: a run before has broken off "
    f"unseen, and its outputs may have been used in the next. {_LOOP}."
)
RAGGED = (
    "the calls of a step must carry one time, as in the first step, got two: a branch has come or "
    "gone, so a forecast may have gone to the wrong one. Keep guidance on for the whole run. A run "
    f"that broke off inside a step looks so too; {_LOOP}."
)
#: Possible in a correct run, if calls_per_step was given.
REPEATED = (
    "the first two steps carry the same time: there are more than calls_per_step calls per step, or a "
    f"run broke off after its first step, or times are rounded alike; {_LOOP}."
)


class ModuleSteps(StepTracker):
    """Take N ``calls_per_step`` calls of a module for a run; the next call begins another.

    It is not known where a run begins and ends, so the times of the calls are watched. A run that broke
    off unseen is noticed if the next one's batch has another shape, or its time jumps back to the
    first one; two calls with one time are branches of one step, and need ``calls_per_step``. A run
    that begins at another time than the last one, and a time that goes back, are reported at once if they
    are known on the host. Times on a device are compared there, and read at the end of the run.

    Args:
        module: what is called, compiled or not.
        run_state: what is advanced.
        num_steps: N.
        calls_per_step: denoiser calls of one sampler step; None if not specified, which is 1 unless
            the times contradict.
        renew: called when a run begins.
        grid: s_0 .. s_N, shape (N + 1,); None if it is not known.
    """

    def __init__(
        self,
        module: nn.Module,
        run_state: RunState,
        num_steps: int,
        calls_per_step: int | None,
        renew: Callable[[], None] = lambda: None,
        grid: NDArray[np.float64] | None = None,
    ) -> None:
        self._run_state, self._renew = run_state, renew
        self._specified, self._per_step = calls_per_step is not None, calls_per_step or 1
        self._whole = num_steps * self._per_step
        unknown = np.full(num_steps + 1, np.nan)
        self._info = RunInfo(num_steps, unknown if grid is None else grid)
        self._time_of = TimeArgument(module)
        self._times, self._checks, self._host = CallTimes(), DeferredChecks(), HostTimes()
        self._calls = self._thread = self._cut = 0
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> ModuleSteps:
        return self

    def __exit__(self, *error: object) -> None:
        """Report what only the end of the context shows; nothing was attached."""
        if error[0] is not None:
            return
        for message in self._checks.settle():
            self._run_state.warn_aloud(message)
        if self._run_state.running:
            self._report_broken("the context was left")

    def busy(self, besides: Collection[int]) -> bool:
        """Return whether a call is under way in a thread that is not among these."""
        return self._run_state.busy and self._thread not in besides

    def before_call(self, arguments: Arguments) -> None:
        """Count a call, which begins a run or a step, or is another one of its step.

        Raises:
            ExecutionError: if two steps carry one time, or the calls of one step two; if a thread calls
                within the run of another, which ends it, and if that other then goes on.
        """
        if self._run_state.busy:
            raise ExecutionError(CONCURRENT)  # that run is not disturbed
        time = self._time_of.of(arguments)
        first = self._calls % self._per_step == 0
        if not self._run_state.running:
            self._refuse_the_rest(time.value)
            self._begin(arguments, time.value)
        elif self._broke_off(arguments, time.value, first):
            self._report_broken("another run began")
            self._begin(arguments, time.value)
        else:
            self._refuse_other_threads()
            self._go_on(time, first)

    def after_call(self, output: Any) -> None:
        """End a call, and with the last of a run's the run.

        Raises:
            ExecutionError: if a check on the device has failed.
        """
        self._calls += 1
        if self._calls == self._whole:
            self._settle()
        if self._calls % self._per_step == 0:
            self._run_state.advance()

    def _begin(self, arguments: Arguments, time: Any) -> None:
        self._run_state.finish(False)
        for message in self._checks.settle():  # of a run that broke off
            self._run_state.warn_aloud(message)
        self._renew()
        self._calls, self._shape = 0, arguments.shape
        self._thread = threading.get_ident()
        self._times.begin(time)
        self._run_state.announce(lambda arguments: self._info)
        self._report(self._host.begin(time), "runs begin at other times")

    def _broke_off(self, arguments: Arguments, time: Any, first: bool) -> bool:
        """Return whether this call is known to begin another run."""
        reshaped = first and arguments.shape != self._shape
        return reshaped or self._checks.check(self._times.back(time), JUMPED)

    def _go_on(self, time: Time, first: bool) -> None:
        if not first:
            self._fail_if(self._times.apart(time.value), RAGGED)
            return
        if time.certain:
            self._report(self._host.advance(time.value), "the time goes back")
        again = self._times.again(time.value) if time.certain else False
        self._times.advance(time.value)
        if not self._specified:
            self._fail_if(again, BRANCHES)
        elif self._times.step == 1 and self._checks.check(again, REPEATED):
            self._run_state.warn_aloud(REPEATED)

    def _report(self, message: str, key: str) -> None:
        if message:
            self._run_state.warn_aloud(message, key)

    def _fail_if(self, truth: Truth, message: str) -> None:
        if self._checks.check(truth, message):
            self._fail(message)

    def _settle(self) -> None:
        """Read the checks on the device at the end of a run, which waits for it anyway."""
        messages = self._checks.settle()
        if REPEATED in messages:
            self._run_state.warn_aloud(REPEATED)
            messages.remove(REPEATED)
        if messages:
            self._fail(" ".join(messages))

    def _refuse_other_threads(self) -> None:
        if self._thread != threading.get_ident():
            self._cut = self._thread
            self._fail(THREADS)

    def _refuse_the_rest(self, time: Any) -> None:
        """Refuse the rest of a run that another thread's call has ended: it would pass for a run."""
        cut, self._cut = self._cut, 0
        if cut == threading.get_ident() and self._times.fresh(time) is not True:
            self._fail(THREADS)

    def _fail(self, message: str) -> None:
        self._run_state.finish(False)
        raise ExecutionError(message)

    def _report_broken(self, event: str) -> None:
        self._run_state.warn_aloud(
            f"{event} after {self._calls} of the {self._whole} calls of a run, which is taken for broken "
            f"off: if it was whole, num_steps or calls_per_step are wrong. {ADAPTIVE}",
            f"broken off: {event}",
        )
