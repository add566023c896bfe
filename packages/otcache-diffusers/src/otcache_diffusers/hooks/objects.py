"""Open Python objects, and make them again from what they hold, without running their own code."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MemberDescriptorType, SimpleNamespace
from typing import Any

from torch import nn

#: What an object may be built on; other classes written in C may hold what Python cannot see.
_BASES: tuple[type, ...] = (OrderedDict, dict, list, tuple, SimpleNamespace, object)
_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class statement made it, or a type of C that looks like one
_POINTER = 8


@dataclass(frozen=True)
class Shell:
    """An object without what it holds.

    Attributes:
        cls: its class.
        base: the built-in type that its memory is laid out as.
        keys: of its items if it is a dict, their positions if it is a list or a tuple.
        names: of its attributes in ``__dict__``.
        mirrored: names of attributes that are the very items of that name (diffusers' ``BaseOutput``).
        slots: of its attributes outside ``__dict__``.
        itself: whether its ``__dict__`` is the object (the ``AttrDict`` idiom).
    """

    cls: type
    base: Any
    keys: tuple[Any, ...]
    names: tuple[str, ...]
    mirrored: tuple[str, ...]
    slots: tuple[MemberDescriptorType, ...]
    itself: bool

    def filled(self, values: Sequence[Any]) -> Any:
        """Make an object of the class that holds these values; no ``__init__`` or ``__setattr__`` is run.

        Args:
            values: items, attributes and slots, in the order that :func:`opened` gave.
        """
        count = len(self.keys)
        items, rest = list(values[:count]), iter(values[count:])
        made: Any = self.base.__new__(self.cls, *([items] if self.base is tuple else []))
        if self.base is list:
            list.extend(made, items)
        elif issubclass(self.base, dict):
            for key, value in zip(self.keys, items, strict=True):
                self.base.__setitem__(made, key, value)
        named = dict(zip(self.names, rest, strict=False))
        named |= {k: v for k, v in zip(self.keys, items, strict=True) if k in self.mirrored}
        if self.itself:
            object.__setattr__(made, "__dict__", made)
        elif named:
            _dict_of(made).update(named)
        for slot, value in zip(self.slots, rest, strict=True):
            slot.__set__(made, value)
        return made


def opened(node: Any) -> tuple[Shell, list[Any]] | None:
    """Return an object without what it holds, and what it holds; None if that cannot be known.

    Opened are objects of Python classes, dataclasses or not, and of Python classes over dict, list, tuple
    and ``SimpleNamespace``. Not opened are modules, whose weights are not outputs, objects that clean up
    after themselves (``__del__``), and those that hold memory of C.
    """
    base = _base_of(type(node))  # type: ignore[arg-type]  # every class is hashable
    if base is None:
        return None
    items, attributes, slots = _items(node, base), _dict_of(node), _slots(node)
    itself = attributes is node
    mirrored = tuple(
        name
        for name, value in (() if itself else attributes.items())
        if issubclass(base, dict) and name in items and items[name] is value
    )
    own = {} if itself else {k: v for k, v in attributes.items() if k not in mirrored}
    shell = Shell(
        type(node), base, tuple(items), tuple(own), mirrored, tuple(d for d, _ in slots), itself
    )
    return shell, [*items.values(), *own.values(), *(value for _, value in slots)]


@functools.lru_cache(maxsize=256)
def _base_of(cls: type) -> Any:
    """Return the built-in type below a class that Python alone makes; None if there is none."""
    base: Any = next(b for b in _BASES if issubclass(cls, b))
    if issubclass(cls, nn.Module) or hasattr(cls, "__del__"):
        return None
    if not _by_statements(cls, base):
        return None
    seen = len(_slots_of(cls)) + 2  # and __dict__ and __weakref__
    if cls.__basicsize__ > base.__basicsize__ + seen * _POINTER:
        return None
    try:
        base.__new__(cls)
    except TypeError:  # "not safe": memory of C after all
        return None
    return base


def _by_statements(cls: type, base: type) -> bool:
    """Return whether nothing but class statements lies between a class and the base of its memory."""
    step: type | None = cls
    while step is not None and step is not base:
        if not step.__flags__ & _HEAP:
            return False
        step = step.__base__
    return step is base


def _items(node: Any, base: type) -> dict[Any, Any]:
    if issubclass(base, dict):
        walk: Callable[[Any], Any] = base.items
        return dict(walk(node))
    return dict(enumerate(base.__iter__(node))) if base in (list, tuple) else {}


def _dict_of(node: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(node, "__dict__")
    except AttributeError:
        return {}
    return found


def _slots_of(cls: type) -> list[MemberDescriptorType]:
    classes = [c for c in cls.__mro__ if "__slots__" in vars(c)]
    return [d for c in classes for d in vars(c).values() if isinstance(d, MemberDescriptorType)]


def _slots(node: Any) -> list[tuple[MemberDescriptorType, Any]]:
    """Return the slots that are filled, by descriptor: two classes may name theirs alike."""
    found = []
    for slot in _slots_of(type(node)):
        try:
            found.append((slot, slot.__get__(node)))
        except AttributeError:
            continue
    return found
