"""Run a pipeline, a loop or a bare module by a policy."""

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
from otcache_diffusers.compat import is_pipeline
from otcache_diffusers.hooks.arguments import Arguments
from otcache_diffusers.hooks.auxiliary import auxiliary_networks
from otcache_diffusers.hooks.conflicts import inner_modules, refuse_foreign_caches
from otcache_diffusers.hooks.loop_states import LoopStates
from otcache_diffusers.hooks.loop_steps import LoopSteps
from otcache_diffusers.hooks.module_hook import CallHandler, Hook, hook_for
from otcache_diffusers.hooks.module_steps import ModuleSteps
from otcache_diffusers.hooks.run_state import RunState
from otcache_diffusers.hooks.scheduler_steps import SchedulerSteps, StepTracker
from otcache_diffusers.hooks.step_hook import StepHook

#: Where pipelines keep what they denoise with; all of them run on one tracker.
DENOISERS = ("transformer", "unet", "transformer_2", "unet_2")
#: What a pipeline without any of these denoises with; beside them it is a stage of its own.
PRIOR = "prior"


def denoisers_of(target: Any) -> dict[str, Any]:
    """The denoisers of a target by name; the main one is called "". Modules, unless a loop has another."""
    if isinstance(target, Loop):
        return {"": target.denoiser}
    if isinstance(target, nn.Module):
        return {"": target}
    found: dict[str, nn.Module] = {}
    for name in DENOISERS:
        module = getattr(target, name, None)
        if isinstance(module, nn.Module) and module not in found.values():
            found[name if found else ""] = module
    prior = getattr(target, PRIOR, None)
    return {"": prior} if not found and isinstance(prior, nn.Module) else found


def unsupported(target: Any) -> str:
    """ "" if ``drive`` takes the target, else the reason why not."""
    if isinstance(target, (Loop, nn.Module)):
        return ""
    if not is_pipeline(target):
        kind = type(target).__name__
        return f"needs a diffusers pipeline, otcache.loop(...) or a torch module, got {kind}"
    if not denoisers_of(target):
        return f"{type(target).__name__} has none of {', '.join((*DENOISERS, PRIOR))}"
    if not hasattr(getattr(target, "scheduler", None), "step"):
        return f"{type(target).__name__} has no scheduler with a step method"
    return ""


@contextmanager
def drive(
    target: Any,
    policy: StepHook,
    *,
    num_steps: int | None = None,
    calls_per_step: int | None = None,
    grid: NDArray[np.float64] | None = None,
    auxiliary: Collection[str] = (),
    states: LoopStates | None = None,
) -> Iterator[Driven]:
    """A context in which every denoiser call of ``target`` is put to ``policy`` first.

    On exit, also by exception, nothing remains on the target.

    Args:
        target: a diffusers pipeline, a :class:`~otcache_core.loop.Loop`, or a bare module.
        policy: what decides.
        num_steps: N of a bare module's runs (required), or of a loop that does not tell its own.
        calls_per_step: of a bare module, None where nobody told; a loop has its own.
        grid: s_0 .. s_N of a bare module's runs, shape (N + 1,); a loop and a pipeline have their own.
        auxiliary: those of ``auxiliary_networks(target)`` that are left out where no denoiser is called.
        states: makes a loop's states and outputs of its calls, for a policy that watches.

    Raises:
        ExecutionError: if the target is not supported, already driven, or cached by something else; if
            ``calls_per_step`` is below 1, or it or ``grid`` is given and the target is no bare module.
    """
    reason = unsupported(target)
    if reason:
        raise ExecutionError(f"{reason}.")
    _check_bare(target, calls_per_step, grid)
    run_state = RunState(policy)
    with ExitStack() as stack:
        hooks: dict[str, Hook] = {}
        refuse_foreign_caches(target, _modules_of(target))
        renew = partial(_renew, target, hooks)
        if isinstance(target, Loop):
            tracker: StepTracker = LoopSteps(target, run_state, num_steps, renew, states)
        else:
            tracker = _tracker(target, run_state, num_steps, calls_per_step, renew, grid)
        stack.callback(run_state.retire)
        stack.callback(run_state.finish, False)
        stack.enter_context(tracker)
        for name, module in denoisers_of(target).items():
            hooks[name] = hook_for(module, DenoiserHandler(name, target, tracker, run_state))
        for name in auxiliary:
            handler = AuxiliaryHandler(name, target, tracker, run_state)
            hooks[name] = hook_for(auxiliary_networks(target)[name], handler)
        for hook in hooks.values():
            stack.enter_context(hook)
        yield Driven(tracker, run_state)


class Driven:
    """Tells of what is under way in a context of :func:`drive`."""

    def __init__(self, tracker: StepTracker, run_state: RunState) -> None:
        self._tracker, self._run_state = tracker, run_state

    @property
    def running(self) -> bool:
        """Whether a run is known to be under way."""
        return self._run_state.running and self._tracker.alive

    def busy(self, besides: Collection[int]) -> bool:
        """Return whether a call of the target is on the stack of a thread that is not among these."""
        return self._tracker.busy(besides)


def _tracker(
    target: Any,
    run_state: RunState,
    num_steps: int | None,
    calls_per_step: int | None,
    renew: Callable[[], None],
    grid: NDArray[np.float64] | None,
) -> StepTracker:
    if isinstance(target, nn.Module):
        if num_steps is None:
            raise ExecutionError(
                "a bare module needs num_steps: wrap its sampler in otcache.loop(...)."
            )
        # In the middle of a call the hook cannot move: only look.
        look = partial(refuse_foreign_caches, target, _modules_of(target))
        return ModuleSteps(target, run_state, num_steps, calls_per_step, look, grid)
    return SchedulerSteps(target, run_state, renew)


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


def _renew(target: Any, hooks: dict[str, Hook]) -> None:
    """Before each run: what happened to the denoisers since the last one?"""
    refuse_foreign_caches(target, _modules_of(target))
    denoisers = denoisers_of(target) | auxiliary_networks(target)
    for name, hook in hooks.items():
        if name in denoisers:
            hook.refresh(denoisers[name])


def _modules_of(target: Any) -> dict[str, nn.Module]:
    """The denoisers of a target that are modules, and the modules inside others."""
    modules = [m for denoiser in denoisers_of(target).values() for m in inner_modules(denoiser)]
    return {str(n): module for n, module in enumerate(modules)}


class DenoiserHandler(CallHandler):
    """Puts the calls of one denoiser to a run.

    Args:
        name: of the denoiser.
        target: what is driven.
        tracker: knows whose calls are whose.
        run_state: answers those of the run.
    """

    def __init__(self, name: str, target: Any, tracker: StepTracker, run_state: RunState) -> None:
        self._name, self._tracker, self._run_state = name, tracker, run_state
        self.target, self.shares = target, not isinstance(target, nn.Module)
        self.inside = run_state.inside

    def __call__(self, context: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        if not self._tracker.expects():
            self._run_state.outside()
            return compute()
        self._tracker.arrive(arguments)
        output = self._run_state.call(self._name, context, arguments, compute)
        self._tracker.left(output)
        return output

    def claims(self) -> bool:
        return self._tracker.claims()

    def passes(self) -> None:
        self._run_state.outside()


class AuxiliaryHandler(CallHandler):
    """Puts the calls of a network that feeds the denoiser to a run; arguments as in the other."""

    def __init__(self, name: str, target: Any, tracker: StepTracker, run_state: RunState) -> None:
        self._name, self._tracker, self._run_state = name, tracker, run_state
        self.target, self.shares = target, not isinstance(target, nn.Module)
        self.inside = False

    def __call__(self, context: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        if not self._tracker.expects():
            return compute()
        return self._run_state.feed(self._name, arguments, compute)

    def claims(self) -> bool:
        return self._tracker.claims()

    def passes(self) -> None:
        """Nothing: the denoiser's calls tell."""
