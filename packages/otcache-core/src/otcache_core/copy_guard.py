"""Copies and pickles of an object that otcache has attached something to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

#: Removes from a copied ``__dict__`` what otcache put there.
Strip = Callable[[dict[str, Any]], None]
_MISSING = object()
_OWN = ("__reduce_ex__", "__reduce__", "__getstate__")


class CopyGuard:
    """While entered, copies and pickles of an object hold nothing that otcache attached to it.

    ``copy`` and ``pickle`` look up ``__deepcopy__`` and ``__reduce_ex__`` on the instance before its class.
    Without this a copy would go on calling the original. A class's own ``__copy__`` is looked up on the class
    alone and cannot be changed here. Several guards of one object share the methods of the first, until the
    last of them is left, in any order.

    Args:
        owner: the object.
        strip: applied to the state of each copy.
    """

    def __init__(self, owner: Any, strip: Strip) -> None:
        self._owner, self._strip = owner, strip
        self._strips = [strip]
        self._host: CopyGuard | None = None

    def __enter__(self) -> CopyGuard:
        known = vars(self._owner)
        first = known.get("__reduce_ex__")
        if isinstance(first, CopyMethod) and first.host._owner is self._owner:
            self._host = first.host
            self._host._strips.append(self._strip)
            return self
        names: dict[str, Callable[[Any], Any]] = {"__reduce_ex__": self._reduced}
        if hasattr(self._owner, "__deepcopy__"):
            names["__deepcopy__"] = self._deepcopied
        self._before = {name: known.get(name, _MISSING) for name in names}
        self._asked = {name: getattr(self._owner, name) for name in names}
        self._strips = [self._strip]
        self._put = {n: CopyMethod(self, self._asked[n], way) for n, way in names.items()}
        known.update(self._put)
        return self

    def __exit__(self, *error: object) -> None:
        host, self._host = self._host or self, None
        if self._strip in host._strips:
            host._strips.remove(self._strip)
        if not host._strips:
            host._take_off(vars(host._owner))

    def _reduced(self, protocol: Any) -> Any:
        # Copied first and stripped then if possible: another thread may be using the owner.
        with nullcontext() if self._as_object else self._bare():
            return self._plain(self._asked["__reduce_ex__"](protocol))

    @property
    def _as_object(self) -> bool:
        """Whether the owner is reduced as any plain object, by no code of its own."""
        kind, known = type(self._owner), vars(self._owner)
        own = any(getattr(kind, name) is not getattr(object, name) for name in _OWN)
        theirs = known.keys() & {"__reduce__", "__getstate__"}
        return not own and not theirs and self._before["__reduce_ex__"] is _MISSING

    def _deepcopied(self, memo: dict[int, Any]) -> Any:
        with self._bare():
            return self._asked["__deepcopy__"](memo)

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """Take what is ours off the owner, for code of its class that reads its ``__dict__``."""
        known = vars(self._owner)
        ours = dict(known)
        self._clean(known)
        ours = {n: v for n, v in ours.items() if known.get(n, _MISSING) is not v}
        try:
            yield
        finally:
            known.update(ours)

    def _plain(self, reduced: Any) -> Any:
        """Clean the state in the result of a reduction: a ``__dict__``, alone or with slots."""
        if not isinstance(reduced, tuple) or len(reduced) < 3:
            return reduced
        state = reduced[2]
        if isinstance(state, tuple) and len(state) == 2:
            state = self._cleaned(state[0]), state[1]
        return (*reduced[:2], self._cleaned(state), *reduced[3:])

    def _cleaned(self, state: Any) -> Any:
        if not isinstance(state, dict):
            return state
        state = dict(state)
        self._clean(state)
        return state

    def _clean(self, state: dict[str, Any]) -> None:
        self._take_off(state)
        for strip in reversed(self._strips):
            strip(state)

    def _take_off(self, state: dict[str, Any]) -> None:
        for name, way in self._put.items():
            if state.get(name) is not way:
                continue
            if self._before[name] is _MISSING:
                del state[name]
            else:
                state[name] = self._before[name]


class CopyMethod:
    """Replaces one of the methods on an instance by which it is copied.

    Args:
        host: what put it there.
        method: what would be called without this.
        around: what is called.
    """

    def __init__(
        self, host: CopyGuard, method: Callable[..., Any], around: Callable[..., Any]
    ) -> None:
        self.host, self._method, self._around = host, method, around

    def __call__(self, given: Any) -> Any:
        """Copy what the guard returns."""
        return self._around(given)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return rebound(self, self.host._owner, self._method, memo)


def rebound(replacement: Any, owner: Any, method: Any, memo: dict[int, Any]) -> Any:
    """Return what a deep copy gets in the place of a replacement for a method of its owner.

    It is the method of the copied owner; or the replacement itself, if only the owner's ``__dict__`` is
    copied to be put back later.
    """
    if id(owner) not in memo:
        return replacement
    if getattr(method, "__self__", None) is owner:
        return getattr(memo[id(owner)], method.__name__)
    return copy.deepcopy(method, memo)
