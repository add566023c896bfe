"""Attach to a denoiser on the instance, for all targets that share it, and leave no trace."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any

from torch import nn

from otcache_core.callable_denoiser import CallableDenoiser, attach, detach, name_of
from otcache_core.errors import ExecutionError
from otcache_diffusers.compat import HOOKS, unlink
from otcache_diffusers.hooks.arguments import Arguments, parameters_of
from otcache_diffusers.hooks.conflicts import module_taken, taken
from otcache_diffusers.hooks.patches import MethodPatches

#: (context, arguments, compute) -> output
Ask = Callable[[str, Arguments, Callable[[], Any]], Any]


class DenoiserHook:
    """Routes every call of one module through ``ask`` while entered.

    What stands in the way to the module, its ``forward`` or its compiled call, is wrapped on the
    instance, outside of every hook that is there. So a skipped step runs no hook of anybody, and a
    compiled module (``module.compile()``, ``torch.compile(module)``) is asked for outside the compiled
    region and traced no more often than without; ``refresh`` sees to both where something is put around
    it, taken off or compiled while this is entered.

    On exit the module's ``__dict__`` is as it was, but for what somebody else put there meanwhile; copies
    and pickles made while entered are plain.

    Args:
        module: the denoiser.
        ask: gets the name of the pipeline's ``cache_context`` ("" outside one), the arguments, and
            what computes the output.

    Attributes:
        module: the denoiser.
    """

    def __init__(self, module: nn.Module, ask: Ask) -> None:
        self.module = module
        self._ask = ask
        self._here = threading.local()  # several threads may be in contexts of several pipelines
        self._stack = ExitStack()
        self._way: MethodPatches | None = None

    @property
    def _root(self) -> nn.Module:
        return root_of(self.module)

    def __enter__(self) -> DenoiserHook:
        with ExitStack() as stack:
            stack.callback(_forget_registry, self._root, HOOKS in vars(self._root))
            stack.enter_context(MethodPatches(self._root, self._context_methods()))
            self._stack = stack.pop_all()
        try:
            self._attach()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._detach()
        self._stack.close()

    def refresh(self) -> None:
        """Attach again where the way to the denoiser changed; called between runs.

        Offloading takes the forward away after each run, and hooks of others go around it. Compiling
        would trace what is attached here, so this moves to the outside of the compiled region.
        """
        if self._way is None or not self._way.outermost(_way_into(self.module)):
            self._detach()
            self._attach()

    def _attach(self) -> None:
        names = parameters_of(self.module)

        def asked(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return self._ask(
                _name_in(self._here),
                Arguments(args, kwargs, names),
                lambda: method(*args, **kwargs),
            )

        self._way = MethodPatches(self.module, {_way_into(self.module): asked}).__enter__()

    def _detach(self) -> None:
        way, self._way = self._way, None
        if way is None:
            return
        way.__exit__()
        for patch in way.patches.values():
            unlink(self.module, patch, patch.method)

    def _context_methods(self) -> dict[str, Callable[..., Any]]:
        return {"cache_context": self._named} if hasattr(self._root, "cache_context") else {}

    def _named(
        self, original: Callable[..., Any], /, name: str, *args: Any, **kwargs: Any
    ) -> AbstractContextManager[None]:
        return self._inside(name, original(name, *args, **kwargs))

    @contextmanager
    def _inside(self, name: str, theirs: AbstractContextManager[Any]) -> Iterator[None]:
        outer, self._here.name = _name_in(self._here), name
        try:
            with theirs:
                yield
        finally:
            self._here.name = outer


def _name_in(here: threading.local) -> str:
    name: str = getattr(here, "name", "")
    return name


def root_of(module: nn.Module) -> nn.Module:
    """Return the module itself, or what ``torch.compile`` wrapped."""
    root: nn.Module = getattr(module, "_orig_mod", module)
    return root


def _way_into(module: nn.Module) -> str:
    """Return the name by which calling a module reaches it: compiled in place, not by ``forward``."""
    compiled = getattr(module, "_orig_mod", module) is module and module._compiled_call_impl
    return "_compiled_call_impl" if compiled else "forward"


def _forget_registry(root: nn.Module, known: bool) -> None:
    """Drop the empty registry of hooks that diffusers made while a hook was entered."""
    if not known and not getattr(vars(root).get(HOOKS), "hooks", True):
        del vars(root)[HOOKS]


class CallableHook:
    """Routes every call of a loop's callable denoiser through ``ask`` while entered.

    Args:
        denoiser: what stands between the sampler and the callable.
        ask: as of :class:`DenoiserHook`; there is no ``cache_context``.

    Raises:
        ExecutionError: on entry, if the denoiser is already driven by otcache.
    """

    def __init__(self, denoiser: CallableDenoiser, ask: Ask) -> None:
        self._denoiser, self._ask = denoiser, ask
        self._names = parameters_of(denoiser)

    def __enter__(self) -> CallableHook:
        attach(self._denoiser, self._asked)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        detach(self._denoiser)

    def refresh(self, denoiser: Any) -> None:
        """Attach to another denoiser of the loop, if it has another one; called between runs.

        Raises:
            ExecutionError: if that one is driven by otcache already, or is a module.
        """
        check_kind(denoiser, CallableDenoiser)
        if denoiser is not self._denoiser:
            attach(denoiser, self._asked)
            detach(self._denoiser)
            self._denoiser, self._names = denoiser, parameters_of(denoiser)

    def _asked(self, args: Any, kwargs: Any, compute: Callable[[], Any]) -> Any:
        return self._ask("", Arguments(args, kwargs, self._names), compute)


def check_kind(denoiser: Any, kind: type) -> None:
    """Refuse a denoiser that took the place of one of another kind."""
    if not isinstance(denoiser, kind):
        raise ExecutionError(
            "a loop's denoiser must stay a torch module, or stay another callable, while it is "
            f"accelerated or recorded, got {name_of(denoiser)}: leave the context first."
        )


#: Makes and leaves hooks one at a time; reentrant, since a context may be collected meanwhile.
_CHANGING = threading.RLock()


class CallHandler(ABC):
    """What one driver attaches to a network; it is held weakly, by whoever entered the driver's context.

    Attributes:
        target: what is driven.
        shares: whether calls of its runs can be told from those of other targets.
        inside: whether it works inside a call, on the blocks of the network, while that is computed.
    """

    target: Any
    shares: bool
    inside: bool

    @abstractmethod
    def __call__(self, context: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        """Return the output of one call, of whichever run."""

    @abstractmethod
    def claims(self) -> bool:
        """Return whether a call made here and now is of the run under way, or begins the next."""

    @abstractmethod
    def passes(self) -> None:
        """Note that a call is computed that may have been of this run."""


class SharedHook:
    """Routes each call of a module to the one driver whose run it is of.

    Request-scoped pipelines share a transformer and have a scheduler each. A call is of the run whose
    pipeline call is the innermost on the stack, or whose loop's sampler makes it; a call that is of no
    run, or may be of two, is computed. A driver that works inside the module has it for itself meanwhile.

    Args:
        module: what is shared.
    """

    def __init__(self, module: nn.Module) -> None:
        self._hook = DenoiserHook(module, self._ask)
        self._handlers: tuple[weakref.ref[CallHandler], ...] = ()
        self._alone = threading.RLock()

    @property
    def module(self) -> nn.Module:
        """What is called."""
        return self._hook.module

    @property
    def handlers(self) -> list[CallHandler]:
        """The drivers that are attached."""
        return [handler for ref in self._handlers if (handler := ref()) is not None]

    def join(self, handler: CallHandler) -> None:
        """Attach a driver.

        Raises:
            ExecutionError: if it cannot share the module with those that are attached.
        """
        others = self.handlers
        for other in others:
            if handler.target is other.target:
                raise ExecutionError(taken(handler.target, other.target))
            if not (handler.shares and other.shares):
                raise ExecutionError(module_taken(self.module, other.target))
        if not self._handlers:
            self._hook.__enter__()
        self._handlers = (*map(weakref.ref, others), weakref.ref(handler))

    def leave(self, handler: CallHandler) -> bool:
        """Take a driver off, and the hook with the last; return whether it was the last."""
        self._handlers = tuple(
            weakref.ref(other) for other in self.handlers if other is not handler
        )
        if not self._handlers:
            self._hook.__exit__(None, None, None)
        return not self._handlers

    def refresh(self) -> None:
        """Attach again where the way to the module changed."""
        self._hook.refresh()

    def _ask(self, context: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        handlers = self.handlers
        alone = any(handler.inside for handler in handlers)
        with self._alone if alone else nullcontext():
            for handler in _concerned(handlers) if len(handlers) > 1 else handlers:
                compute = partial(handler, context, arguments, compute)
            return compute()


def _concerned(handlers: Sequence[CallHandler]) -> Sequence[CallHandler]:
    """Return whose call it is; if it is of no run, all of them."""
    claiming = [handler for handler in handlers if handler.claims()]
    if len(claiming) < 2:
        return claiming or handlers
    for handler in claiming:
        handler.passes()
    return []


#: The hooks there are. They hold their modules, so they are held by those who entered them.
_SHARED: weakref.WeakKeyDictionary[nn.Module, weakref.ref[SharedHook]] = weakref.WeakKeyDictionary()


class ModuleHook:
    """One driver's part in the hook on a module, while entered.

    Args:
        module: the denoiser.
        handler: the driver.

    Raises:
        ExecutionError: on entry, if the module cannot be shared with who is attached to it already.
    """

    def __init__(self, module: nn.Module, handler: CallHandler) -> None:
        self._module, self._handler = module, handler
        self._shared: SharedHook | None = None

    def __enter__(self) -> ModuleHook:
        self._shared = self._join(self._module)
        return self

    def __exit__(self, *error: object) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            self._leave(shared)

    def refresh(self, module: Any) -> None:
        """Attach to what the target calls now, or again where the way to it changed; between runs.

        Args:
            module: the module, or the same one wrapped by ``torch.compile``, or another one.

        Raises:
            ExecutionError: if another one cannot be shared, or is no module.
        """
        check_kind(module, nn.Module)
        if self._shared is not None and module is self._shared.module:
            self._shared.refresh()
            return
        if root_of(module) is root_of(self._module):
            self.__exit__()
        shared = self._join(module)
        self.__exit__()
        self._module, self._shared = module, shared

    def _join(self, module: nn.Module) -> SharedHook:
        with _CHANGING:
            root = root_of(module)
            known = _SHARED.get(root)
            shared = known() if known is not None else None
            if shared is None or not shared.handlers:
                shared = SharedHook(module)
            elif shared.module is not module:
                raise ExecutionError(module_taken(module, shared.handlers[0].target))
            shared.join(self._handler)
            _SHARED[root] = weakref.ref(shared)
            return shared

    def _leave(self, shared: SharedHook) -> None:
        with _CHANGING:
            root = root_of(shared.module)
            known = _SHARED.get(root)
            if shared.leave(self._handler) and known is not None and known() in (shared, None):
                del _SHARED[root]


#: What is attached to a denoiser.
Hook = ModuleHook | CallableHook


def hook_for(denoiser: Any, handler: CallHandler) -> Hook:
    """Make the hook that attaches to a module, or to the callable denoiser of a loop."""
    if isinstance(denoiser, CallableDenoiser):
        return CallableHook(denoiser, handler)
    return ModuleHook(denoiser, handler)
