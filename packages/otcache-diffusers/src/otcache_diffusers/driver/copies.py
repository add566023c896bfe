"""Copies and pickles of an object that carries something of ours for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Strips a ``__dict__`` of what was put there, so that it is as if nothing had been.
Strip = Callable[[dict[str, Any]], None]
_NAME = "__getstate__"
_MISSING = object()


class PlainCopies:
    """While entered, what ``copy`` and ``pickle`` make of an object has nothing of ours.

    Both ask an object for its state by the name ``__getstate__``, which is found on the instance
    before its class. Without this a copy would go on calling the original.

    Args:
        owner: the object.
        strip: applied to the state of each copy.
    """

    def __init__(self, owner: Any, strip: Strip) -> None:
        self._owner, self._strip = owner, strip

    def __enter__(self) -> PlainCopies:
        self._state: Callable[[], Any] = self._owner.__getstate__
        self._before = vars(self._owner).get(_NAME, _MISSING)
        vars(self._owner)[_NAME] = self
        return self

    def __exit__(self, *error: object) -> None:
        self._take_off(vars(self._owner))

    def __call__(self) -> Any:
        """The owner's state, without what is ours."""
        state = self._state()
        if not isinstance(state, dict):
            return state
        state = dict(state)
        self._take_off(state)
        self._strip(state)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> PlainCopies:
        """Itself: whoever copies a ``__dict__`` alone puts it back."""
        return self

    def _take_off(self, state: dict[str, Any]) -> None:
        if state.get(_NAME) is not self:
            return
        if self._before is _MISSING:
            del state[_NAME]
        else:
            state[_NAME] = self._before
