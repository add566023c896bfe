"""Methods of one object that tell when they are called."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from otcache_core.copy_guard import CopyGuard, rebound

_MISSING = object()


class MethodPatch:
    """Stands for a method on one instance, until it is retired.

    Args:
        owner: the instance.
        method: its bound method.
        around: called with it and its arguments; returns its result.
    """

    # Whoever wraps this by functools.wraps copies the __dict__, and so does a patch around that wrapper.
    __slots__ = ("__dict__", "_owner", "around", "method")

    def __init__(self, owner: Any, method: Callable[..., Any], around: Callable[..., Any]) -> None:
        self._owner, self.method, self.around = owner, method, around
        functools.update_wrapper(self, method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.method, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Itself where a pipeline copies its scheduler's ``__dict__`` alone, and puts it back later."""
        return rebound(self, self._owner, self.method, memo)

    def retire(self) -> None:
        """Let every call through: somebody may have kept this, or put a wrapper around it."""
        self.around = _through


class MethodPatches:
    """MethodPatch methods of one object while entered; copies of it have the plain methods.

    On exit goes what is still ours: a wrapper that somebody put around a patch stays, and lets calls
    through.

    Args:
        owner: the object.
        arounds: by name of the method, as in :class:`MethodPatch`.

    Attributes:
        patches: by name of the method, since it was last entered.
    """

    def __init__(self, owner: Any, arounds: Mapping[str, Callable[..., Any]]) -> None:
        self._owner, self._arounds = owner, arounds
        self.patches: dict[str, MethodPatch] = {}
        self._copies = CopyGuard(owner, self._strip)

    def __enter__(self) -> MethodPatches:
        known = vars(self._owner)
        self._before = {name: known.get(name, _MISSING) for name in self._arounds}
        self.patches = {
            n: MethodPatch(self._owner, getattr(self._owner, n), f)
            for n, f in self._arounds.items()
        }
        self._copies.__enter__()
        known.update(self.patches)
        return self

    def __exit__(self, *error: object) -> None:
        self._strip(vars(self._owner))
        self._copies.__exit__(*error)
        for patch in self.patches.values():
            patch.retire()

    def outermost(self, name: str) -> bool:
        """Return whether the method of this name is patched, and nothing was put in the patch's place."""
        return name in self.patches and vars(self._owner).get(name) is self.patches[name]

    def _strip(self, state: dict[str, Any]) -> None:
        for name, patch in self.patches.items():
            if state.get(name) is not patch:
                continue
            if self._before[name] is _MISSING:
                del state[name]
            else:
                state[name] = self._before[name]


class WeakMethodAround:
    """Goes around a method without keeping the object that is told of it; lets through once that is gone.

    Args:
        around: a bound method, as in :class:`MethodPatch`.
    """

    def __init__(self, around: Callable[..., Any]) -> None:
        self.told: Callable[[], Any] = weakref.WeakMethod(around)

    def __call__(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return (self.told() or _through)(method, *args, **kwargs)


def watcher_of(owner: Any) -> Any:
    """Return the object that is told of an object's methods; None if there is none, or it is gone."""
    arounds = [value.around for value in vars(owner).values() if isinstance(value, MethodPatch)]
    told = [around.told() for around in arounds if isinstance(around, WeakMethodAround)]
    return next((method.__self__ for method in told if method is not None), None)


def _through(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)
