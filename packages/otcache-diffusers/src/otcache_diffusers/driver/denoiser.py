"""Attach to the root of a denoiser, on the instance, and leave no trace."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any

from diffusers.hooks import HookRegistry  # type: ignore[attr-defined]  # lazy export
from torch import nn

from otcache_core.callable_denoiser import CallableDenoiser, attach, detach, name_of
from otcache_core.errors import ExecutionError
from otcache_diffusers.driver.arguments import Arguments, parameters_of
from otcache_diffusers.driver.copies import PlainCopies
from otcache_diffusers.driver.root_hook import RootHook

_NAME = "otcache"
_MISSING = object()
_DRIVEN: weakref.WeakSet[nn.Module] = weakref.WeakSet()

#: (context, arguments, compute) -> output
Ask = Callable[[str, Arguments, Callable[[], Any]], Any]


class DenoiserHook:
    """Routes every call of one module through ``ask`` while entered.

    On exit the module's ``__dict__`` is as it was, also where hooks of somebody else came or went
    meanwhile; copies and pickles made while entered are plain. A compiled module
    (``module.compile()``, ``torch.compile(module)``) is asked for outside the compiled region, so that
    nothing is traced anew; ``refresh`` sees to it where it is compiled while this is entered.

    Args:
        module: the denoiser.
        ask: gets the name of the pipeline's ``cache_context`` ("" outside one), the arguments, and
            what computes the output.

    Raises:
        ExecutionError: on entry, if the module is already driven by otcache.
    """

    def __init__(self, module: nn.Module, ask: Ask) -> None:
        self._module = module
        self._root: nn.Module = getattr(module, "_orig_mod", module)
        self._names = parameters_of(module)
        self._ask = ask
        self._context = ""
        self._forward: Any = None
        self._compiled: Any = _MISSING
        self._before: dict[str, tuple[nn.Module, Any]] = {}
        self._put: dict[str, Any] = {}
        self._copies: list[PlainCopies] = []

    def __enter__(self) -> DenoiserHook:
        _check_free(self._root)
        _DRIVEN.add(self._root)
        self._remember()
        try:
            self._wrap_context()
            self._attach()
            for owner in {self._module, self._root}:
                self._copies.append(PlainCopies(owner, partial(self._strip, owner)).__enter__())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._copies:
            self._copies.pop().__exit__(kind, error, trace)
        kept = set() if self._outermost else {"forward"}
        self._detach()
        registry = self._root.__dict__.get("_diffusers_hook")
        if getattr(registry, "hooks", None):
            kept = {"forward", "_diffusers_hook"}
        self._restore(kept)
        _DRIVEN.discard(self._root)

    def refresh(self, module: Any) -> None:
        """Attach again where the way to the denoiser changed; called between runs.

        Offloading takes the forward away after each run. Compiling would trace what is attached
        here, so this moves to the outside of the compiled region.

        Args:
            module: what the target calls now: the module, or the same one wrapped by
                ``torch.compile``, or another one.

        Raises:
            ExecutionError: if another one is driven by otcache already, or is no module.
        """
        _check_kind(module, nn.Module)
        if module is not self._module or self._compiled is not self._compiled_now:
            root = getattr(module, "_orig_mod", module)
            if root is not self._root:
                _check_free(root)
            self.__exit__(None, None, None)
            self._module, self._root, self._names = module, root, parameters_of(module)
            self.__enter__()
            return
        registry = self._root.__dict__.get("_diffusers_hook")
        latest = next(reversed(getattr(registry, "hooks", {})), None)
        if not self._outermost and latest == _NAME:
            self._detach()
            self._attach()

    @property
    def _outermost(self) -> bool:
        """Whether the module's forward is the one set here, or none was."""
        return self._forward is None or self._module.__dict__.get("forward") is self._forward

    @property
    def _compiled_now(self) -> Any:
        return self._module.__dict__.get("_compiled_call_impl", _MISSING)

    def _remember(self) -> None:
        owners = {
            "forward": self._module,
            "_diffusers_hook": self._root,
            "cache_context": self._root,
            "_compiled_call_impl": self._module,
        }
        self._before = {n: (o, o.__dict__.get(n, _MISSING)) for n, o in owners.items()}
        self._compiled = self._compiled_now

    def _attach(self) -> None:
        name = "forward" if self._module is not self._root else "_compiled_call_impl"
        compiled = self._before[name][1]
        if compiled is not _MISSING and compiled is not None:
            self._module.__dict__[name] = self._put[name] = self._around(compiled)
            self._compiled = self._compiled_now
            return
        self._before["forward"] = self._module, self._module.__dict__.get("forward", _MISSING)
        registry = HookRegistry.check_if_exists_or_initialize(self._module)
        if registry.get_hook(_NAME) is not None:  # a retired one, copied with hooks of others
            registry.remove_hook(_NAME, recurse=False)
        registry.register_hook(RootHook(self._asked, self._names), _NAME)
        self._forward = self._put["forward"] = self._module.forward

    def _detach(self) -> None:
        registry = self._root.__dict__.get("_diffusers_hook")
        if registry is None or registry.get_hook(_NAME) is None:
            return
        hook = registry.get_hook(_NAME)
        own = self._module.__dict__
        forward = own.get("forward")
        registry.remove_hook(_NAME, recurse=False)
        hook.retire()
        if forward is not self._forward:  # theirs, over ours, which is gone from the chain
            own["forward"] = forward
        for name, value in own.items():  # accelerate keeps what it wraps on the module
            if value is self._forward:
                own[name] = hook.fn_ref.original_forward

    def _asked(self, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        return self._ask(self._context, arguments, compute)

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def asked(*args: Any, **kwargs: Any) -> Any:
            return self._asked(Arguments(args, kwargs, self._names), lambda: call(*args, **kwargs))

        return asked

    def _restore(self, kept: set[str]) -> None:
        """Put back what was set here directly, and drop what was not there before."""
        direct = {"cache_context", "_compiled_call_impl"}
        if self._compiled is not self._compiled_now:  # compiled meanwhile, by somebody else
            self._before.pop("_compiled_call_impl")
        if self._module is not self._root:
            direct.add("forward")
        for name, (owner, value) in self._before.items():
            if value is not _MISSING and name in direct:
                owner.__dict__[name] = value
            elif value is _MISSING and name not in kept:
                owner.__dict__.pop(name, None)

    def _wrap_context(self) -> None:
        original = getattr(self._root, "cache_context", None)
        if original is None:
            return

        @contextmanager
        @functools.wraps(original)
        def cache_context(name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
            outer, self._context = self._context, name
            try:
                with original(name, *args, **kwargs):
                    yield
            finally:
                self._context = outer

        self._root.__dict__["cache_context"] = self._put["cache_context"] = cache_context

    def _strip(self, owner: nn.Module, state: dict[str, Any]) -> None:
        """Take out of a copy's state what is ours."""
        registry = state.get("_diffusers_hook")
        if list(getattr(registry, "hooks", ())) == [_NAME]:
            del state["_diffusers_hook"]
        for name, (at, value) in self._before.items():
            if at is not owner or name not in state or state[name] is not self._put.get(name):
                continue
            if value is _MISSING:
                del state[name]
            else:
                state[name] = value


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
        _check_kind(denoiser, CallableDenoiser)
        if denoiser is not self._denoiser:
            attach(denoiser, self._asked)
            detach(self._denoiser)
            self._denoiser, self._names = denoiser, parameters_of(denoiser)

    def _asked(self, args: Any, kwargs: Any, compute: Callable[[], Any]) -> Any:
        return self._ask("", Arguments(args, kwargs, self._names), compute)


#: What is attached to a denoiser.
Hook = DenoiserHook | CallableHook


def hook_for(denoiser: Any, ask: Ask) -> Hook:
    """Make the hook that attaches to a module, or to the callable denoiser of a loop."""
    if isinstance(denoiser, CallableDenoiser):
        return CallableHook(denoiser, ask)
    return DenoiserHook(denoiser, ask)


def _check_kind(denoiser: Any, kind: type) -> None:
    if not isinstance(denoiser, kind):
        raise ExecutionError(
            "a loop's denoiser must stay a torch module, or stay another callable, while it is "
            f"accelerated or recorded, got {name_of(denoiser)}: leave the context first."
        )


def _check_free(root: nn.Module) -> None:
    if root in _DRIVEN:
        raise ExecutionError(
            f"{type(root).__name__} is already accelerated or recorded by otcache: leave that "
            "context first, or load the pipeline twice."
        )
