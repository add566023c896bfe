"""Patch methods of one object for a while, and leave no trace."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from otcache_core.copy_guard import CopyGuard, rebound

_MISSING = object()


class MethodPatch:
    """Replace a method on one instance, until the patches are removed.

    Args:
        owner: the instance.
        method: its bound method.
        around: called with it and its arguments; returns its result.
        before: what the instance itself had by the method's name.
    """

    # Wrappers made by functools.wraps copy the __dict__ of this, and so does a patch around such a wrapper.
    __slots__ = ("__dict__", "_owner", "around", "before", "method")

    def __init__(
        self,
        owner: Any,
        method: Callable[..., Any],
        around: Callable[..., Any],
        before: Any = _MISSING,
    ) -> None:
        self._owner, self.method, self.around, self.before = owner, method, around, before
        functools.update_wrapper(self, method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ``around`` makes of the call."""
        return self.around(self.method, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return itself if a pipeline copies its scheduler's ``__dict__`` alone, and puts it back later."""
        return rebound(self, self._owner, self.method, memo)


class MethodPatches:
    """Patch methods of one object while entered; copies of it have the plain methods.

    On exit what is still ours is removed. A wrapper that other code put around a patch stays, and its
    calls pass through.

    Args:
        owner: the object.
        arounds: by name of the method, as in :class:`MethodPatch`.

    Attributes:
        patches: by name of the method, since it was last entered.
    """

    def __init__(self, owner: Any, arounds: Mapping[str, Callable[..., Any]]) -> None:
        self._owner, self._arounds = owner, arounds
        self.patches: dict[str, MethodPatch] = {}
        self._guard = CopyGuard(owner, self._strip)

    def __enter__(self) -> MethodPatches:
        known = vars(self._owner)
        self.patches = {
            n: MethodPatch(self._owner, getattr(self._owner, n), f, known.get(n, _MISSING))
            for n, f in self._arounds.items()
        }
        self._guard.__enter__()
        known.update(self.patches)
        return self

    def __exit__(self, *error: object) -> None:
        self._strip(vars(self._owner))
        self._guard.__exit__(*error)
        for patch in self.patches.values():
            patch.around = _through  # it may have been kept, or a wrapper put around it

    def outermost(self, name: str) -> bool:
        """Return whether the method of this name is patched, and nothing was put in the patch's place."""
        return name in self.patches and vars(self._owner).get(name) is self.patches[name]

    def _strip(self, state: dict[str, Any]) -> None:
        for name, patch in self.patches.items():
            if state.get(name) is not patch:
                continue
            before = patch.before
            while isinstance(before, MethodPatch) and before.around is _through:
                before = before.before  # removed meanwhile: what is shared is patched several times
            if before is _MISSING:
                del state[name]
            else:
                state[name] = before


class WeakMethodAround:
    """Call a method around another without keeping its object alive; pass calls through once that is gone.

    Args:
        around: a bound method, as in :class:`MethodPatch`.
    """

    def __init__(self, around: Callable[..., Any]) -> None:
        self.around: Callable[[], Any] = weakref.WeakMethod(around)

    def __call__(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the method makes of the call, if its object is alive."""
        return (self.around() or _through)(method, *args, **kwargs)


def patching(owner: Any) -> Any:
    """Return the object whose methods are around an object's weakly; None if none is, or it is gone."""
    arounds = [value.around for value in vars(owner).values() if isinstance(value, MethodPatch)]
    found = [around.around() for around in arounds if isinstance(around, WeakMethodAround)]
    return next((method.__self__ for method in found if method is not None), None)


def unpatchable(owner: Any, name: str) -> str:
    """Say why a method of an object cannot be replaced on the object alone; "" if it can."""
    kind = type(owner)
    if not hasattr(owner, "__dict__"):
        return f"{kind.__name__} has __slots__ and no __dict__: leave __slots__ out"
    found = inspect.getattr_static(kind, name, None)
    if hasattr(type(found), "__set__") or hasattr(type(found), "__delete__"):
        return f"{kind.__name__}.{name} is a {type(found).__name__}: make it a method"
    return ""


def _through(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)
