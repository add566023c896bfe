"""Keep copies and pickles of an object free of what otcache has attached to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

#: A function that removes from a copied ``__dict__`` what otcache put there, in place.
Strip = Callable[[dict[str, Any]], None]
_MISSING = object()
_OWN = ("__reduce_ex__", "__reduce__", "__getstate__")


class CopyGuard:
    """Context manager: while it is open, copies and pickles of an object hold nothing of otcache's.

    Without it a copy would hold replaced methods that call the original object. It replaces
    ``__reduce_ex__`` and ``__deepcopy__`` on the instance, which ``copy`` and ``pickle`` look up before the
    class's. A class's own ``__copy__`` is looked up on the class alone, so it is not covered. Several
    guards of one object share the replacements of the first; the last one to exit, in whatever order,
    removes them.

    Args:
        owner: the object.
        strip: removes otcache's attributes from the ``__dict__`` of each copy.
    """

    def __init__(self, owner: Any, strip: Strip) -> None:
        self._owner, self._strip = owner, strip
        self._strips = [strip]
        self._first: CopyGuard | None = None

    def __enter__(self) -> CopyGuard:
        attributes = vars(self._owner)
        reduce = attributes.get("__reduce_ex__")
        if isinstance(reduce, CopyMethod) and reduce.guard._owner is self._owner:
            self._first = reduce.guard
            self._first._strips.append(self._strip)
            return self
        names: dict[str, Callable[[Any], Any]] = {"__reduce_ex__": self._reduced}
        if hasattr(self._owner, "__deepcopy__"):
            names["__deepcopy__"] = self._deepcopied
        self._previous = {name: attributes.get(name, _MISSING) for name in names}
        self._originals = {name: getattr(self._owner, name) for name in names}
        self._strips = [self._strip]
        self._replacements = {
            n: CopyMethod(self, self._originals[n], around) for n, around in names.items()
        }
        attributes.update(self._replacements)
        return self

    def __exit__(self, *error: object) -> None:
        first, self._first = self._first or self, None
        if self._strip in first._strips:
            first._strips.remove(self._strip)
        if not first._strips:
            first._restore_methods(vars(first._owner))

    def _reduced(self, protocol: Any) -> Any:
        # Strip the copy, not the owner, where possible: another thread may be using the owner.
        with nullcontext() if self._as_object else self._detached():
            return self._stripped(self._originals["__reduce_ex__"](protocol))

    @property
    def _as_object(self) -> bool:
        """Whether ``object``'s own methods reduce the owner, with no override in its class or instance."""
        kind, attributes = type(self._owner), vars(self._owner)
        own = any(getattr(kind, name) is not getattr(object, name) for name in _OWN)
        on_instance = attributes.keys() & {"__reduce__", "__getstate__"}
        return not own and not on_instance and self._previous["__reduce_ex__"] is _MISSING

    def _deepcopied(self, memo: dict[int, Any]) -> Any:
        with self._detached():
            return self._originals["__deepcopy__"](memo)

    @contextmanager
    def _detached(self) -> Iterator[None]:
        """Remove otcache's attributes from the owner for a while, for methods that read its ``__dict__``."""
        attributes = vars(self._owner)
        removed = dict(attributes)
        self._strip_all(attributes)
        removed = {n: v for n, v in removed.items() if attributes.get(n, _MISSING) is not v}
        try:
            yield
        finally:
            attributes.update(removed)

    def _stripped(self, reduced: Any) -> Any:
        """Strip the state in what ``__reduce_ex__`` returned: a ``__dict__``, or a pair of it and slots."""
        if not isinstance(reduced, tuple) or len(reduced) < 3:
            return reduced
        state = reduced[2]
        if isinstance(state, tuple) and len(state) == 2:
            state = self._stripped_state(state[0]), state[1]
        return (*reduced[:2], self._stripped_state(state), *reduced[3:])

    def _stripped_state(self, state: Any) -> Any:
        if not isinstance(state, dict):
            return state
        state = dict(state)
        self._strip_all(state)
        return state

    def _strip_all(self, state: dict[str, Any]) -> None:
        self._restore_methods(state)
        for strip in reversed(self._strips):
            strip(state)

    def _restore_methods(self, state: dict[str, Any]) -> None:
        for name, replacement in self._replacements.items():
            if state.get(name) is not replacement:
                continue
            if self._previous[name] is _MISSING:
                del state[name]
            else:
                state[name] = self._previous[name]


class CopyMethod:
    """Replacement on an instance for one of the methods that copy it.

    Args:
        guard: the guard that installed it.
        method: the method it replaces.
        around: what is called instead.
    """

    def __init__(
        self, guard: CopyGuard, method: Callable[..., Any], around: Callable[..., Any]
    ) -> None:
        self.guard, self._method, self._around = guard, method, around

    def __call__(self, given: Any) -> Any:
        """Call the guard's version of the method; ``given`` is its protocol or memo."""
        return self._around(given)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return rebound(self, self.guard._owner, self._method, memo)


def rebound(replacement: Any, owner: Any, method: Any, memo: dict[int, Any]) -> Any:
    """Return what a deep copy holds where the original holds a replaced method.

    If the owner is copied too, it is the copied owner's own method. If only the owner's ``__dict__`` is
    copied (to be put back later), it is the replacement itself.

    Args:
        replacement: the replacement on the original.
        owner: the original.
        method: the method that was replaced.
        memo: of the deep copy, from ids of originals to their copies.
    """
    if id(owner) not in memo:
        return replacement
    if getattr(method, "__self__", None) is owner:
        return getattr(memo[id(owner)], method.__name__)
    return copy.deepcopy(method, memo)
