"""Count a pipeline's steps by the calls of its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from otcache_core.errors import ExecutionError, OtcacheNotice
from otcache_core.loop_run import refuse_late_run
from otcache_diffusers.compat import is_modular
from otcache_diffusers.hooks.arguments import Arguments
from otcache_diffusers.hooks.conflicts import attached_already
from otcache_diffusers.hooks.modular import loops_of
from otcache_diffusers.hooks.patches import MethodPatches, WeakMethodAround, patching, unpatchable
from otcache_diffusers.hooks.pipeline_call import PipelineCall, PipelineCalls, under_way
from otcache_diffusers.hooks.prediction import output_space, predicts_velocity
from otcache_diffusers.hooks.run_state import RunState
from otcache_diffusers.hooks.sigmas import (
    first_position,
    last_position,
    sigma_grid,
    steps_of,
    times_of,
)
from otcache_diffusers.hooks.step_arguments import RepeatedSteps, StepArguments
from otcache_diffusers.hooks.step_hook import RunInfo, StepTracker

_UNCOUNTED = "the steps of the pipeline's scheduler cannot be counted"
_SHARED = (
    "{other} shares the denoiser and the scheduler: its runs are accelerated too while the context is "
    "open."
)
_REPLACED = (
    "the pipeline's scheduler was replaced after it was accelerated: set the scheduler first, then enter "
    "the context."
)
_THREADS = (
    "one scheduler must serve one run at a time, got a second run, of another thread, before the first has "
    "ended: give each thread a pipeline with a scheduler of its own (pipe.scheduler = "
    "type(pipe.scheduler).from_config(pipe.scheduler.config)), which may share the weights, or let the "
    "threads wait for one another in handle.request(...)."
)
_OTHER_TIMES = (
    "the denoiser was called at other timesteps than the scheduler's: a callback or another pipeline "
    "changed the scheduler, so steps may have been mistaken."
)


class SchedulerSteps(StepTracker):
    """Count ``scheduler.step`` calls since ``set_timesteps``.

    So duplicate timesteps (Heun, PNDM) and times that bfloat16 rounds alike do not matter. The timestep the
    denoiser is given is compared on the device, and read once on exit. A run ends at its last position or
    with the pipeline's progress bar, the first of both; a call from outside the pipeline's own, during
    it or after, is not part of the run.

    Args:
        pipeline: the pipeline of the scheduler. The scheduler's ``step`` and ``set_timesteps`` are wrapped
            on the instance, ``scale_model_input`` if the denoiser predicts a velocity, and the
            pipeline's ``check_inputs`` and ``progress_bar``; of a modular one the bars of its loops.
        run_state: what is advanced.
        renew: called when a run is announced.

    Raises:
        ExecutionError: on entry, if the scheduler is already tracked.
    """

    def __init__(self, pipeline: Any, run_state: RunState, renew: Callable[[], None]) -> None:
        self.pipeline, self._run_state, self._renew = pipeline, run_state, renew
        self._scheduler = pipeline.scheduler
        self._calls = PipelineCalls(type(pipeline))
        self._call: PipelineCall | None = None
        self._token = object()
        self._repeated = RepeatedSteps(self._scheduler)
        self._arguments = StepArguments(self._scheduler)
        self._announces, self._total = True, 0
        self._noted = False
        self._stack = ExitStack()

    def __enter__(self) -> SchedulerSteps:
        if reason := unpatchable(self._scheduler, "step"):
            self._run_state.uncounted(f"{_UNCOUNTED}: {reason}.")
            return self
        other = patching(self._scheduler)
        if other is not None:
            raise ExecutionError(attached_already(self.pipeline, other.pipeline))
        with ExitStack() as stack:
            stack.enter_context(MethodPatches(self._scheduler, self._scheduler_patches()))
            for owner, wanted in self._call_patches():
                found = {n: around for n, around in wanted.items() if hasattr(owner, n)}
                stack.enter_context(MethodPatches(owner, found))
            self._stack = stack.pop_all()
        return self

    def _call_patches(self) -> Iterator[tuple[Any, dict[str, Callable[..., Any]]]]:
        """Yield what has methods that report a call of the pipeline, and what goes around them."""
        bar = {"progress_bar": self._progress_bar}
        if is_modular(self.pipeline):
            yield from ((loop, bar) for loop in loops_of(self.pipeline))
        else:
            yield self.pipeline, {"check_inputs": self._check_inputs, **bar}

    def _scheduler_patches(self) -> dict[str, Callable[..., Any]]:
        wanted: dict[str, Callable[..., Any]] = {"set_timesteps": self._set_timesteps}
        if predicts_velocity(self._scheduler):
            wanted["scale_model_input"] = self._scale
        found = {
            name: around
            for name, around in wanted.items()
            if callable(getattr(self._scheduler, name, None))
            and not unpatchable(self._scheduler, name)
        }
        self._announces = "set_timesteps" in found
        # Held weakly: another holder of this scheduler would keep the pipeline for ever.
        found = {"step": self._step, **found}
        return {name: WeakMethodAround(around) for name, around in found.items()}

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._call = None
        if error[0] is None and self._run_state.times.failed():
            self._run_state.warn(_OTHER_TIMES)

    def expects(self) -> bool:
        """Return whether this call comes from the pipeline call that the run belongs to.

        Calls of another pipeline inside a callback are not part of the run, nor those of other threads;
        neither are those after the run's call has ended, which ends the run.
        """
        call = self._call
        if call is None:
            return True
        if self._run_state.expectant:
            call.settle()
        if call.here:
            return True
        if self._run_state.expectant and call.around_here:
            # Announced by a call around the one that denoises, as a subclass's or a stage's.
            self._call = PipelineCall(self._calls)
            return True
        if not call.of_this_thread or call.alive:
            return False
        self._end(False)
        return True

    def claims(self) -> bool:
        """Return whether this call is of a run that was announced by the scheduler."""
        return self._call is not None and self.expects() and self._call is not None

    @property
    def alive(self) -> bool:
        """Whether the pipeline call of the run is known to go on."""
        return self._call is not None and self._call.known and self._call.goes_on

    def busy(self, besides: Collection[int]) -> bool:
        """Return whether a call of the pipeline is on the stack of another thread than these."""
        return under_way(self.pipeline, besides)

    def before_call(self, arguments: Arguments) -> None:
        """Check that the tracked scheduler is still the pipeline's, and does not repeat a step."""
        if self.pipeline.scheduler is not self._scheduler:
            self._call = None
            self._run_state.uncounted(_REPLACED)
        elif self._run_state.running and self._repeated.found(arguments.timestep):
            self._run_state.give_up(self._repeated.REASON)

    def after_call(self, output: Any) -> None:
        """Do nothing: the scheduler's step counts."""

    def _check_inputs(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Note a call of the pipeline, which does this before it changes anything on the pipeline."""
        self._noted |= self._calls.note(self.pipeline)
        refuse_late_run()
        return original(*args, **kwargs)

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        refuse_late_run()
        call = self._call
        elsewhere = call and call.known and not call.of_this_thread and not call.here
        if elsewhere and self.alive:
            raise ExecutionError(_THREADS)
        result = original(*args, **kwargs)
        self._announce()
        return result

    def _announce(self) -> None:
        self._renew()
        self._run_state.announce(self._run_info)
        self._call, self._token, self._total = PipelineCall(self._calls), object(), 0
        self._repeated.begin()
        if other := self._calls.other_pipeline(self.pipeline, self._noted):
            self._run_state.warn(_SHARED.format(other=other))
        elif not self._noted:
            self._calls.note(self.pipeline)

    def _progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        bar = original(*args, **kwargs)
        if self._run_state.running:  # another bar, inside the run's loop
            return bar
        if not self._announces:
            self._announce()
        self._total = _length(bar) or _length(*args) or _whole(kwargs.get("total"))
        return ProgressBar(bar, partial(self._loop_over, self._token))

    def _loop_over(self, token: object, whole: bool) -> None:
        # The bar of a run before may be left late, in another thread or by an exception kept.
        if token is self._token and not self._run_state.expectant:
            self._end(whole and not getattr(self.pipeline, "_interrupt", False))

    def _end(self, completed: bool) -> None:
        self._call = None
        self._run_state.finish(completed)

    def _scale(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._run_state.scaled = original(*args, **kwargs)
        return self._run_state.scaled

    def _step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        watched = self._run_state.watches and self._run_state.running
        given = self._arguments.given(args, kwargs) if watched else None
        self._repeated.stepping()
        result = original(*args, **kwargs)
        if self._repeated.stepped(self._arguments.time(args, kwargs)):
            self._run_state.give_up(self._repeated.REASON)
        seen = self._arguments.seen(given, result)
        if watched and seen is None:
            self._run_state.uncounted(self._arguments.unreadable(args, kwargs, result))
        self._run_state.advance(seen)
        if not self._run_state.running and not self._run_state.expectant:
            self._call = None
        return result

    def _run_info(self, arguments: Arguments) -> RunInfo | None:
        kind = type(self._scheduler).__name__
        try:
            info = self._read_run(arguments)
        except (ExecutionError, OtcacheNotice):  # under strict, and where notices are errors
            raise
        except Exception as error:  # reading an unknown scheduler may raise anything
            self._run_state.uncounted(
                f"{_UNCOUNTED}: {kind} cannot be read ({type(error).__name__}: {error})."
            )
            return None
        if info is None:
            self._run_state.uncounted(
                f"{_UNCOUNTED}: {kind} has neither timesteps nor num_inference_steps, and the pipeline's "
                "progress bar no total."
            )
        return info

    def _read_run(self, arguments: Arguments) -> RunInfo | None:
        n = steps_of(self._scheduler) or self._total
        if not n:
            return None
        times = times_of(self._scheduler)
        if times is None:
            return RunInfo(n, np.full(n + 1, np.nan))
        start = first_position(self._scheduler, arguments.timestep)
        stop = last_position(self.pipeline, start)
        self._run_state.times.begin(times[start:stop])
        grid = sigma_grid(self._scheduler)[start : None if stop is None else stop + 1]
        return RunInfo(len(grid) - 1, grid, output_space(self._scheduler, start))


class ProgressBar:
    """Wrap a pipeline's progress bar, and report when its loop is left, by whatever way.

    Pipelines enter the bar as a context or iterate over it. If one does neither nothing is reported.

    Args:
        bar: the real one, to which everything else goes.
        over: called once, with whether the loop was left without an exception, or a ``break``.
    """

    def __init__(self, bar: Any, over: Callable[[bool], None]) -> None:
        self._bar, self._over = bar, over

    def __enter__(self) -> Any:
        return self._bar.__enter__()

    def __exit__(self, *error: Any) -> Any:
        self._end(error[0] is None)
        return self._bar.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        whole = False
        try:
            yield from self._bar
            whole = True
        finally:
            self._end(whole)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)

    def __len__(self) -> int:
        return len(self._bar)

    def _end(self, whole: bool) -> None:
        over, self._over = self._over, lambda whole: None
        over(whole)


def _length(*rows: Any) -> int:
    """Return the length of the first of them, a bar's total too; 0 if it has none."""
    try:
        return len(rows[0])
    except (IndexError, TypeError, AttributeError):
        return 0


def _whole(total: Any) -> int:
    """Return a bar's total as a number of steps; 0 if it is none."""
    return int(float(total)) if isinstance(total, Real) and float(total).is_integer() else 0
