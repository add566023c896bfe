"""Attach to the root of a denoiser, on the instance, and leave no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any

from torch import nn

from otcache_core.callable_denoiser import CallableDenoiser, attach, detach, name_of
from otcache_core.errors import ExecutionError
from otcache_diffusers.compat import HOOKS, unlink
from otcache_diffusers.hooks.arguments import Arguments, parameters_of
from otcache_diffusers.hooks.taps import Taps

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
        self._way: Taps | None = None

    @property
    def _root(self) -> nn.Module:
        return root_of(self.module)

    def __enter__(self) -> DenoiserHook:
        with ExitStack() as stack:
            stack.callback(_forget_registry, self._root, HOOKS in vars(self._root))
            stack.enter_context(Taps(self._root, self._context_methods()))
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

        self._way = Taps(self.module, {_way_into(self.module): asked}).__enter__()

    def _detach(self) -> None:
        way, self._way = self._way, None
        if way is None:
            return
        way.__exit__()
        for tap in way.taps.values():
            unlink(self.module, tap, tap.method)

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
