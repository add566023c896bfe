"""Which entry points are looked at: the installed ones, less what the environment leaves out."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

GROUP = "otcache"
CORE = "otcache-core"
_BUILTIN = "otcache_core.plugins.builtin"

Found = tuple[str, str, Callable[[], Any]]


@dataclass(frozen=True)
class PluginSettings:
    """What the environment says about plugins.

    Args:
        disabled: normalised names of entry points or distributions to leave out; ``all`` means all
            but core.
        only: names to load besides core; None for all.
        strict: a broken plugin is an error.
    """

    disabled: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    strict: bool = False

    @classmethod
    def from_environment(cls) -> PluginSettings:
        """Read the three variables that :class:`~otcache_core.plugins.Registry` names."""
        only = os.environ.get("OTCACHE_LOAD_PLUGINS")
        return cls(
            disabled=_names(os.environ.get("OTCACHE_DISABLE_PLUGINS", "")),
            only=None if only is None else _names(only),
            strict=os.environ.get("OTCACHE_STRICT_PLUGINS", "").lower()
            in {"1", "true", "yes", "on"},
        )

    def allows(self, name: str, distribution: str) -> bool:
        """Whether an entry point is to be loaded; core always is: everything falls back on it."""
        either = {normalise(name), normalise(distribution)}
        if CORE in either:
            return True
        if self.disabled & (either | {"all", "1"}):
            return False
        return self.only is None or bool(either & self.only)


def found_entry_points(settings: PluginSettings, installed: bool) -> Iterator[Found]:
    """Yield (entry point name, distribution, loader): core first, installed or not."""
    yield "core", CORE, lambda: importlib.import_module(_BUILTIN)
    if not installed:
        return
    found = [(p.name, _distribution(p), p.load) for p in metadata.entry_points(group=GROUP)]
    for name, distribution, load in sorted(found, key=lambda f: (f[1], f[0])):
        if distribution != CORE and settings.allows(name, distribution):
            yield name, distribution, load


def normalise(name: str) -> str:
    """A distribution's name as package indexes spell it: lower case, runs of ``-_.`` to ``-``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _names(text: str) -> frozenset[str]:
    return frozenset(normalise(name) for name in text.split(",") if name.strip())


def _distribution(point: metadata.EntryPoint) -> str:
    return normalise(point.dist.name) if point.dist is not None else "unknown"
