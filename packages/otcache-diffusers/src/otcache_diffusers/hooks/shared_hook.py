"""One hook on a denoiser for all targets that share it, and whose run a call is of."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import nn

from otcache_core.callable_denoiser import CallableDenoiser
from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks.arguments import Arguments
from otcache_diffusers.hooks.denoiser import CallableHook, DenoiserHook, check_kind, root_of
from otcache_diffusers.hooks.messages import module_taken, taken

#: Makes and leaves hooks one at a time; reentrant, since a context may be collected meanwhile.
_CHANGING = threading.RLock()


class Asker(ABC):
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
        self._askers: tuple[weakref.ref[Asker], ...] = ()
        self._alone = threading.RLock()

    @property
    def module(self) -> nn.Module:
        """What is called."""
        return self._hook.module

    @property
    def askers(self) -> list[Asker]:
        """The drivers that are attached."""
        return [asker for ref in self._askers if (asker := ref()) is not None]

    def join(self, asker: Asker) -> None:
        """Attach a driver.

        Raises:
            ExecutionError: if it cannot share the module with those that are attached.
        """
        others = self.askers
        for other in others:
            if asker.target is other.target:
                raise ExecutionError(taken(asker.target, other.target))
            if not (asker.shares and other.shares):
                raise ExecutionError(module_taken(self.module, other.target))
        if not self._askers:
            self._hook.__enter__()
        self._askers = (*map(weakref.ref, others), weakref.ref(asker))

    def leave(self, asker: Asker) -> bool:
        """Take a driver off, and the hook with the last; return whether it was the last."""
        self._askers = tuple(weakref.ref(other) for other in self.askers if other is not asker)
        if not self._askers:
            self._hook.__exit__(None, None, None)
        return not self._askers

    def refresh(self) -> None:
        """Attach again where the way to the module changed."""
        self._hook.refresh()

    def _ask(self, context: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        askers = self.askers
        alone = any(asker.inside for asker in askers)
        with self._alone if alone else nullcontext():
            for asker in _concerned(askers) if len(askers) > 1 else askers:
                compute = partial(asker, context, arguments, compute)
            return compute()


def _concerned(askers: Sequence[Asker]) -> Sequence[Asker]:
    """Return whose call it is; if it is of no run, all of them."""
    claiming = [asker for asker in askers if asker.claims()]
    if len(claiming) < 2:
        return claiming or askers
    for asker in claiming:
        asker.passes()
    return []


#: The hooks there are. They hold their modules, so they are held by those who entered them.
_SHARED: weakref.WeakKeyDictionary[nn.Module, weakref.ref[SharedHook]] = weakref.WeakKeyDictionary()


class ModuleHook:
    """One driver's part in the hook on a module, while entered.

    Args:
        module: the denoiser.
        asker: the driver.

    Raises:
        ExecutionError: on entry, if the module cannot be shared with who is attached to it already.
    """

    def __init__(self, module: nn.Module, asker: Asker) -> None:
        self._module, self._asker = module, asker
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
            if shared is None or not shared.askers:
                shared = SharedHook(module)
            elif shared.module is not module:
                raise ExecutionError(module_taken(module, shared.askers[0].target))
            shared.join(self._asker)
            _SHARED[root] = weakref.ref(shared)
            return shared

    def _leave(self, shared: SharedHook) -> None:
        with _CHANGING:
            root = root_of(shared.module)
            known = _SHARED.get(root)
            if shared.leave(self._asker) and known is not None and known() in (shared, None):
                del _SHARED[root]


#: What is attached to a denoiser.
Hook = ModuleHook | CallableHook


def hook_for(denoiser: Any, asker: Asker) -> Hook:
    """Make the hook that attaches to a module, or to the callable denoiser of a loop."""
    if isinstance(denoiser, CallableDenoiser):
        return CallableHook(denoiser, asker)
    return ModuleHook(denoiser, asker)
