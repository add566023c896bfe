"""Attach to a denoiser on the instance, for all targets that share it, and leave no trace.

A call goes from :class:`DenoiserHook` (on the module) to :class:`SharedHook` (whose run is it of?) to the
:class:`CallHandler` of that target, which asks the run's state for the output.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, final

from torch import nn

from otcache_core.callable_denoiser import CallableDenoiser, attach, detach, name_of
from otcache_core.errors import ExecutionError
from otcache_diffusers.compat import HOOKS, unlink
from otcache_diffusers.hooks.arguments import Arguments, parameters_of
from otcache_diffusers.hooks.conflicts import attached_already, module_attached_already
from otcache_diffusers.hooks.modular import GuidedBranches
from otcache_diffusers.hooks.object_hook import CallContexts, Handle, ObjectHook, is_denoiser
from otcache_diffusers.hooks.patches import MethodPatches
from otcache_diffusers.hooks.run_state import RunState
from otcache_diffusers.hooks.step_hook import StepTracker

#: Hooks are attached and removed one at a time; reentrant, since a context may be collected meanwhile.
_CHANGING = threading.RLock()


class DenoiserHook:
    """Route every call of one module through ``handle`` while entered.

    The module's ``forward``, or its compiled call, is wrapped on the instance, outside of every other hook.
    So a skipped step runs no hook at all, and a compiled module (``module.compile()``,
    ``torch.compile(module)``) is wrapped outside the compiled region and traced no more often than without.
    ``refresh`` restores both if something is put around it, removed or compiled while this is entered.

    On exit the module's ``__dict__`` is as it was, except for what others put there meanwhile; copies
    and pickles made while entered carry no hook.

    Args:
        module: the denoiser.
        handle: gets the name of the pipeline's ``cache_context`` ("" outside one), the arguments, and
            what computes the output.

    Attributes:
        module: the denoiser.
    """

    def __init__(self, module: nn.Module, handle: Handle) -> None:
        self.module = module
        self._handle = handle
        self._contexts = CallContexts()
        self._stack = ExitStack()
        self._patches: MethodPatches | None = None

    def __enter__(self) -> DenoiserHook:
        root = root_of(self.module)
        around = self._contexts.around
        contexts = {"cache_context": around} if hasattr(root, "cache_context") else {}
        with ExitStack() as stack:
            stack.callback(_forget_registry, root, HOOKS in vars(root))
            stack.enter_context(MethodPatches(root, contexts))
            stack.callback(self._detach)
            self._attach()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def refresh(self) -> None:
        """Attach again if something was put around the module's call; used between runs.

        Offloading removes the forward after each run, and hooks of other libraries go around it.
        Compiling would trace what is attached here, so this moves outside of the compiled region.
        """
        if self._patches is None or not self._patches.outermost(_call_name(self.module)):
            self._detach()
            self._attach()

    def _attach(self) -> None:
        names = parameters_of(self.module)

        def handled(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return self._handle(
                getattr(self._contexts.here, "name", ""),
                Arguments(args, kwargs, names),
                lambda: method(*args, **kwargs),
            )

        self._patches = MethodPatches(self.module, {_call_name(self.module): handled}).__enter__()

    def _detach(self) -> None:
        patches, self._patches = self._patches, None
        if patches is None:
            return
        patches.__exit__()
        for patch in patches.patches.values():
            unlink(self.module, patch, patch.method)


def root_of(module: Any) -> Any:
    """Return the denoiser itself, or the module that ``torch.compile`` wrapped."""
    return getattr(module, "_orig_mod", module)


def _call_name(module: nn.Module) -> str:
    """Return the attribute that a call of the module runs: compiled in place, not ``forward``."""
    compiled = root_of(module) is module and module._compiled_call_impl
    return "_compiled_call_impl" if compiled else "forward"


def _forget_registry(root: nn.Module, known: bool) -> None:
    """Drop the empty registry of hooks that diffusers made while a hook was entered."""
    if not known and not getattr(vars(root).get(HOOKS), "hooks", True):
        del vars(root)[HOOKS]


@final
class CallHandler:
    """Answer the calls of one network for one target; held weakly here, by the target's context strongly.

    Args:
        name: of the network in the target.
        target: what is driven.
        tracker: knows which calls are of the target's run.
        run_state: answers those.
        feeds: whether the network only feeds the denoiser, as a ControlNet does.
        branches: name the branch of a call; without them its ``cache_context`` does.

    Attributes:
        target: what is driven.
        shares: whether calls of its runs can be distinguished from those of other targets.
        inside: whether it works inside a call, on the blocks of the network, while that is computed.
    """

    def __init__(
        self,
        name: str,
        target: Any,
        tracker: StepTracker,
        run_state: RunState,
        feeds: bool = False,
        branches: GuidedBranches | None = None,
    ) -> None:
        self._name, self._tracker, self._run_state, self._feeds = name, tracker, run_state, feeds
        self._branches = branches
        self.target, self.shares = target, not isinstance(target, nn.Module)
        self.inside = run_state.inside and not feeds

    def __call__(self, context: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        """Return the output of one call, of this target's run or not."""
        if not self._tracker.expects():
            self.missed()
            return compute()
        if self._feeds:
            return self._run_state.feed(self._name, arguments, compute)
        self._tracker.before_call(arguments)
        branch = context if self._branches is None else self._branches.named(context)
        output = self._run_state.call(self._name, branch, arguments, compute)
        self._tracker.after_call(output)
        return output

    def claims(self) -> bool:
        """Return whether a call made here and now is of the run under way, or begins the next."""
        return self._tracker.claims()

    def missed(self) -> None:
        """Note that a call is computed that may have been of this target's run."""
        if not self._feeds:
            self._run_state.outside()


class SharedHook:
    """Route each call of a denoiser to the target whose run it is of.

    Request-scoped pipelines share a transformer and have a scheduler each. A call is of the run whose
    pipeline call is the innermost on the stack, or whose loop's sampler makes it; a call that is of no
    run, or may be of two, is computed. A handler that works inside the module has it for itself meanwhile.

    Args:
        module: what is shared: a module, or an object.
    """

    def __init__(self, module: Any) -> None:
        attach_to = DenoiserHook if isinstance(module, nn.Module) else ObjectHook
        self.hook = attach_to(module, self._handle)
        self._handlers: tuple[weakref.ref[CallHandler], ...] = ()
        self._alone = threading.RLock()

    @property
    def handlers(self) -> list[CallHandler]:
        """Those that are attached."""
        return [handler for ref in self._handlers if (handler := ref()) is not None]

    def join(self, handler: CallHandler) -> None:
        """Attach a handler.

        Raises:
            ExecutionError: if it cannot share the module with those that are attached.
        """
        others = self.handlers
        for other in others:
            if handler.target is other.target:
                raise ExecutionError(attached_already(handler.target, other.target))
            if not (handler.shares and other.shares):
                raise ExecutionError(module_attached_already(self.hook.module, other.target))
        if not self._handlers:
            self.hook.__enter__()
        self._handlers = (*map(weakref.ref, others), weakref.ref(handler))

    def leave(self, handler: CallHandler) -> bool:
        """Remove a handler, and the hook with the last; return whether it was the last."""
        self._handlers = tuple(weakref.ref(h) for h in self.handlers if h is not handler)
        if not self._handlers:
            self.hook.__exit__()
        return not self._handlers

    def _handle(self, context: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        handlers = self.handlers
        if len(handlers) == 1 and not handlers[0].inside:
            return handlers[0](context, arguments, compute)
        alone = any(handler.inside for handler in handlers)
        with self._alone if alone else nullcontext():
            for handler in _concerned(handlers) if len(handlers) > 1 else handlers:
                compute = partial(handler, context, arguments, compute)
            return compute()


def _concerned(handlers: Sequence[CallHandler]) -> Sequence[CallHandler]:
    """Return whose call it is; if it is of no run, all of them; if of several, none."""
    claiming = [handler for handler in handlers if handler.claims()]
    if len(claiming) < 2:
        return claiming or handlers
    for handler in claiming:
        handler.missed()
    return []


#: The hooks there are, by the identity of the denoisers that they hold; the contexts that entered them
#: hold them.
_SHARED: weakref.WeakValueDictionary[int, SharedHook] = weakref.WeakValueDictionary()


class ModuleHook:
    """Attach one handler to a denoiser while entered, beside those of other targets.

    Args:
        module: the denoiser: a module, or an object.
        handler: of the target.

    Raises:
        ExecutionError: on entry, if the module cannot be shared with what is attached to it already.
    """

    def __init__(self, module: Any, handler: CallHandler) -> None:
        self._module, self._handler = module, handler
        self._shared: SharedHook | None = None

    def __enter__(self) -> ModuleHook:
        self._shared = self._join(self._module)
        return self

    def __exit__(self, *error: object) -> None:
        shared, self._shared = self._shared, None
        if shared is None:
            return
        with _CHANGING:
            key = id(root_of(shared.hook.module))
            if shared.leave(self._handler) and _SHARED.get(key) is shared:
                del _SHARED[key]

    def refresh(self, module: Any) -> None:
        """Attach to what the target calls now, or again if something was put around it; between runs.

        Args:
            module: the module, or the same one wrapped by ``torch.compile``, or another one.

        Raises:
            ExecutionError: if another one cannot be shared, or is not a module.
        """
        _check_kind(module, is_denoiser(module) and not isinstance(module, CallableDenoiser))
        if self._shared is not None and module is self._shared.hook.module:
            self._shared.hook.refresh()
            return
        if root_of(module) is root_of(self._module):
            self.__exit__()
        shared = self._join(module)
        self.__exit__()
        self._module, self._shared = module, shared

    def _join(self, module: Any) -> SharedHook:
        with _CHANGING:
            key = id(root_of(module))
            shared = _SHARED.get(key)
            if shared is None or not shared.handlers:
                shared = SharedHook(module)
            elif shared.hook.module is not module:
                raise ExecutionError(module_attached_already(module, shared.handlers[0].target))
            shared.join(self._handler)
            _SHARED[key] = shared
            return shared


class CallableHook:
    """Route every call of a loop's callable denoiser through ``handle`` while entered.

    Args:
        denoiser: the proxy between the sampler and the callable.
        handle: as of :class:`DenoiserHook`; there is no ``cache_context``.

    Raises:
        ExecutionError: on entry, if the denoiser is already driven by otcache.
    """

    def __init__(self, denoiser: CallableDenoiser, handle: Handle) -> None:
        self._denoiser, self._handle = denoiser, handle
        self._names = parameters_of(denoiser)

    def __enter__(self) -> CallableHook:
        attach(self._denoiser, self._handled)
        return self

    def __exit__(self, *error: object) -> None:
        detach(self._denoiser)

    def refresh(self, denoiser: Any) -> None:
        """Attach to another denoiser if the loop has another one; used between runs.

        Raises:
            ExecutionError: if that one is driven by otcache already, or is a module.
        """
        _check_kind(denoiser, isinstance(denoiser, CallableDenoiser))
        if denoiser is not self._denoiser:
            attach(denoiser, self._handled)
            detach(self._denoiser)
            self._denoiser, self._names = denoiser, parameters_of(denoiser)

    def _handled(self, args: Any, kwargs: Any, compute: Callable[[], Any]) -> Any:
        return self._handle("", Arguments(args, kwargs, self._names), compute)


def _check_kind(denoiser: Any, as_before: bool) -> None:
    """Refuse a denoiser that took the place of one of another kind."""
    if not as_before:
        raise ExecutionError(
            "a loop's denoiser must stay a torch module, or stay another callable, while it is "
            f"accelerated or recorded, got {name_of(denoiser)}: leave the context first."
        )


#: What is attached to a network.
Hook = ModuleHook | CallableHook


def hook_for(denoiser: Any, handler: CallHandler) -> Hook:
    """Make the hook that attaches to a module, or to the callable denoiser of a loop."""
    if isinstance(denoiser, CallableDenoiser):
        return CallableHook(denoiser, handler)
    return ModuleHook(denoiser, handler)
