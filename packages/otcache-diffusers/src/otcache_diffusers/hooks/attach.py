"""Run a pipeline, a loop or a bare module by a step hook."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_core.numbers import integer
from otcache_diffusers.compat import is_modular, is_pipeline
from otcache_diffusers.hooks.auxiliary import auxiliary_networks
from otcache_diffusers.hooks.conflicts import inner_modules, refuse_other_caches
from otcache_diffusers.hooks.loop_states import LoopStates
from otcache_diffusers.hooks.loop_steps import LoopSteps
from otcache_diffusers.hooks.modular import GuidedBranches
from otcache_diffusers.hooks.module_hook import CallHandler, Hook, hook_for
from otcache_diffusers.hooks.module_steps import ModuleSteps
from otcache_diffusers.hooks.object_hook import is_denoiser, unattachable
from otcache_diffusers.hooks.run_state import RunState
from otcache_diffusers.hooks.scheduler_steps import SchedulerSteps
from otcache_diffusers.hooks.step_hook import StepHook, StepTracker

#: The attributes in which pipelines keep their denoisers; all of them share one run.
DENOISERS = ("transformer", "unet", "transformer_2", "unet_2")
#: The denoiser of a pipeline without any of these; beside them it is a stage of its own.
PRIOR = "prior"


def denoisers_of(target: Any) -> dict[str, Any]:
    """Return the denoisers of a target by name; the main one is called "".

    They are modules, except a loop's, which may be any callable, and those of engines' pipelines, which are
    objects with a ``__call__``.
    """
    if isinstance(target, Loop):
        return {"": target.denoiser}
    if isinstance(target, nn.Module):
        return {"": target}
    found: dict[str, Any] = {}
    for name in DENOISERS:
        denoiser = getattr(target, name, None)
        if is_denoiser(denoiser) and not any(denoiser is other for other in found.values()):
            found[name if found else ""] = denoiser
    prior = getattr(target, PRIOR, None)
    return {"": prior} if not found and is_denoiser(prior) else found


def unsupported(target: Any) -> str:
    """Return "" if ``drive`` takes the target, else the reason why not."""
    if isinstance(target, (Loop, nn.Module)):
        return ""
    kind = type(target).__name__
    if not is_pipeline(target):
        return f"needs a diffusers pipeline, otcache.loop(...) or a torch module, got {kind}"
    if not denoisers_of(target):
        loads = ": call its load_components() first" if is_modular(target) else ""
        return f"{kind} has none of {', '.join((*DENOISERS, PRIOR))}{loads}"
    if not hasattr(getattr(target, "scheduler", None), "step"):
        return f"{kind} has no scheduler with a step method"
    return next(filter(None, map(unattachable, denoisers_of(target).values())), "")


@contextmanager
def drive(
    target: Any,
    hook: StepHook,
    *,
    num_steps: int | None = None,
    calls_per_step: int | None = None,
    grid: NDArray[np.float64] | None = None,
    auxiliary: Collection[str] = (),
    auxiliary_calls: dict[str, tuple[int, int]] | None = None,
    states: LoopStates | None = None,
) -> Iterator[Driven]:
    """Let ``hook`` decide at every denoiser call of ``target`` in this context.

    On exit, also by exception, nothing remains on the target.

    Args:
        target: a diffusers pipeline, a :class:`~otcache_core.loop.Loop`, or a bare module.
        hook: what decides.
        num_steps: N of a bare module's runs (required), or of a loop that does not know its own.
        calls_per_step: of a bare module, None if not specified; a loop has its own.
        grid: s_0 .. s_N of a bare module's runs, shape (N + 1,); a loop and a pipeline have their own.
        auxiliary: those of ``auxiliary_networks(target)`` that are omitted if no denoiser is called.
        auxiliary_calls: takes how many of their calls were made and skipped, by name.
        states: makes a loop's states and outputs of its calls, for a hook that watches.

    Raises:
        ExecutionError: if the target is not supported, already driven, or cached by something else; if
            ``calls_per_step`` is below 1, or it or ``grid`` is given and the target is not a bare module.
    """
    reason = unsupported(target)
    if reason:
        raise ExecutionError(f"{reason}.")
    _check_bare(target, calls_per_step, grid)
    run_state = RunState(hook, auxiliary_calls)
    with ExitStack() as stack:
        hooks: dict[str, Hook] = {}
        refuse_other_caches(target, _modules_of(target))
        branches = stack.enter_context(GuidedBranches(target))
        renew = partial(_renew, target, hooks, branches)
        if isinstance(target, Loop):
            tracker: StepTracker = LoopSteps(target, run_state, num_steps, renew, states)
        elif isinstance(target, nn.Module):
            tracker = _module_steps(target, run_state, num_steps, calls_per_step, grid)
        else:
            tracker = SchedulerSteps(target, run_state, renew)
        stack.callback(run_state.retire)
        stack.callback(run_state.finish, False)
        stack.enter_context(tracker)
        for name, module in denoisers_of(target).items():
            own = CallHandler(name, target, tracker, run_state, branches=branches)
            hooks[name] = hook_for(module, own)
        for name in auxiliary:
            handler = CallHandler(name, target, tracker, run_state, feeds=True)
            hooks[name] = hook_for(auxiliary_networks(target)[name], handler)
        for attached in hooks.values():
            stack.enter_context(attached)
        yield Driven(tracker, run_state)


class Driven:
    """Report what is under way in a context of :func:`drive`."""

    def __init__(self, tracker: StepTracker, run_state: RunState) -> None:
        self._tracker, self._run_state = tracker, run_state
        self.busy: Callable[[Collection[int]], bool] = tracker.busy

    @property
    def running(self) -> bool:
        """Whether a run is known to be under way."""
        return self._run_state.running and self._tracker.alive


def _module_steps(
    module: nn.Module,
    run_state: RunState,
    num_steps: int | None,
    calls_per_step: int | None,
    grid: NDArray[np.float64] | None,
) -> ModuleSteps:
    if num_steps is None:
        raise ExecutionError(
            "a bare module needs num_steps: wrap its sampler in otcache.loop(...)."
        )
    # In the middle of a call the hook cannot move: only look.
    look = partial(refuse_other_caches, module, _modules_of(module))
    return ModuleSteps(module, run_state, num_steps, calls_per_step, look, grid)


def _check_bare(target: Any, calls_per_step: int | None, grid: NDArray[np.float64] | None) -> None:
    """Refuse what is given for bare modules only."""
    if calls_per_step is not None:
        integer("calls_per_step", calls_per_step, 1, kind=ExecutionError)
    for name, value in (("calls_per_step", calls_per_step), ("grid", grid)):
        if value is not None and not isinstance(target, nn.Module):
            raise ExecutionError(
                f"{name} is given for a bare module, got {type(target).__name__}: a loop has that of "
                f"otcache.loop(..., {name}=...), and a pipeline that of its scheduler."
            )


def _renew(target: Any, hooks: dict[str, Hook], branches: GuidedBranches) -> None:
    """Follow changes of the denoisers and guiders since the last run; used before each."""
    refuse_other_caches(target, _modules_of(target))
    branches.refresh()
    denoisers = denoisers_of(target) | auxiliary_networks(target)
    for name, hook in hooks.items():
        if name in denoisers:
            hook.refresh(denoisers[name])


def _modules_of(target: Any) -> list[nn.Module]:
    """Return the denoisers of a target that are modules, and the modules inside others."""
    return [m for denoiser in denoisers_of(target).values() for m in inner_modules(denoiser)]
