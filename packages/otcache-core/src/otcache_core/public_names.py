"""Public names of a package, each imported when it is first asked for (PEP 562).

``import otcache`` is part of every server's start and of every command's answer: what a process does not
use, such as calibrations in one that lists plugins, it does not import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def imported_on_use(
    namespace: dict[str, Any], defined_in: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    Args:
        namespace: the package's ``globals()``, which keeps what was imported.
        defined_in: the module that defines each public name.
    """

    def get(name: str) -> Any:
        if name not in defined_in:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(defined_in[name]), name)
        return value

    def names() -> list[str]:
        return sorted({*namespace, *defined_in})

    return get, names
