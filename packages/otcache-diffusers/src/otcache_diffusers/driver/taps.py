"""Methods of one object that tell when they are called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from otcache_diffusers.driver.copies import PlainCopies, rebound

_MISSING = object()


class Tap:
    """Stands for a method on one instance, until it is retired.

    Args:
        owner: the instance.
        method: its bound method.
        around: called with it and its arguments; returns its result.
    """

    def __init__(self, owner: Any, method: Callable[..., Any], around: Callable[..., Any]) -> None:
        self._owner, self._method, self._around = owner, method, around
        functools.update_wrapper(self, method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._around(self._method, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Itself where a pipeline copies its scheduler's ``__dict__`` alone, and puts it back later."""
        return rebound(self, self._owner, self._method, memo)

    def retire(self) -> None:
        """Let every call through: somebody may have kept this, or put a wrapper around it."""
        self._around = _through


class Taps:
    """Tap methods of one object while entered; copies of it have the plain methods.

    On exit goes what is still ours: a wrapper that somebody put around a tap stays, and lets calls
    through.

    Args:
        owner: the object.
        arounds: by name of the method, as in :class:`Tap`.
    """

    def __init__(self, owner: Any, arounds: Mapping[str, Callable[..., Any]]) -> None:
        self._owner, self._arounds = owner, arounds
        self._copies = PlainCopies(owner, self._strip)

    def __enter__(self) -> Taps:
        known = vars(self._owner)
        self._before = {name: known.get(name, _MISSING) for name in self._arounds}
        self._taps = {
            n: Tap(self._owner, getattr(self._owner, n), f) for n, f in self._arounds.items()
        }
        self._copies.__enter__()
        known.update(self._taps)
        return self

    def __exit__(self, *error: object) -> None:
        self._strip(vars(self._owner))
        self._copies.__exit__(*error)
        for tap in self._taps.values():
            tap.retire()

    def _strip(self, state: dict[str, Any]) -> None:
        for name, tap in self._taps.items():
            if state.get(name) is not tap:
                continue
            if self._before[name] is _MISSING:
                del state[name]
            else:
                state[name] = self._before[name]


def tapped(owner: Any) -> bool:
    """Whether some method of an object is tapped."""
    return any(isinstance(value, Tap) for value in vars(owner).values())


def _through(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)
