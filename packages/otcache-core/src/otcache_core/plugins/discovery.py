"""Where plugins come from: installed entry points that the environment does not disable, or modules."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from otcache_core.errors import PluginError, expected

GROUP = "otcache"
CORE = "otcache-core"
#: Distribution to module of hooks, of otcache's own packages.
_OURS = {
    CORE: "otcache_core.plugins.builtin",
    "otcache": "otcache.plugin",
    "otcache-diffusers": "otcache_diffusers.plugin",
    "otcache-solvers": "otcache_solvers.plugin",
    "otcache-video": "otcache_video.plugin",
}


class HookEntryPoint(NamedTuple):
    """An entry point of a distribution.

    Args:
        name: of the entry point.
        distribution: normalised name.
        module: what it points at, ``package.module`` or ``package.module:object``.
        version: of the distribution.
        stamp: changes when something is installed in the same folder; "" if sources may change without that.
    """

    name: str
    distribution: str
    module: str
    version: str = ""
    stamp: str = ""

    @property
    def ours(self) -> bool:
        """Whether it belongs to one of otcache's own packages."""
        return _OURS.get(self.distribution) == self.module

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution!r}"

    def load(self) -> Any:
        """Import what it points at.

        Raises:
            PluginError: if the distribution's entry points could not be read.
        """
        if not self.module:
            raise PluginError("its entry_points.txt cannot be read: install it again.")
        return metadata.EntryPoint(self.name, self.module, GROUP).load()


@dataclass(frozen=True)
class PluginSettings:
    """The environment's settings of plugins.

    Args:
        disabled: normalised names of entry points or distributions to omit; ``all`` means all but core.
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
            strict=os.environ.get("OTCACHE_STRICT_PLUGINS", "").strip().lower()
            in {"1", "true", "yes", "on"},
        )

    def allows(self, name: str, distribution: str) -> bool:
        """Return whether an entry point is to be loaded; core always is."""
        either = {normalise(name), normalise(distribution)}
        if CORE in either:
            return True
        if self.disabled & (either | {"all", "1"}):
            return False
        return self.only is None or bool(either & self.only)


@dataclass(frozen=True)
class RegistryDescription:
    """A registry as plain data, from which another process of the same environment makes an equal one.

    Args:
        entry_points: whether installed distributions are looked at.
        modules: (module, distribution) of what was registered by hand, in order.
        path: ``sys.path`` of the describing process if there are modules, which is appended to the other's.
    """

    entry_points: bool = True
    modules: tuple[tuple[str, str], ...] = ()
    path: tuple[str, ...] = ()


def found_entry_points(settings: PluginSettings, installed: bool) -> Iterator[HookEntryPoint]:
    """Yield the entry points that the settings allow: core first, installed or not; imports nothing."""
    yield HookEntryPoint("core", CORE, _OURS[CORE])
    found = _points() if installed else []
    for point in sorted(found, key=lambda p: (p.distribution, p.name)):
        if point.distribution != CORE and settings.allows(point.name, point.distribution):
            yield point


def _points() -> Iterator[HookEntryPoint]:
    """Yield every entry point of the group, of the first distribution of each name on the path."""
    seen = set()
    for found in filter(_names_group, metadata.distributions()):  # reading names is slow
        name = _name(found)
        if name in seen or not _is_first(found, name):
            continue
        seen.add(name)
        try:
            points = [(p.name, p.value) for p in found.entry_points if p.group == GROUP]
            facts = (found.version or "", _stamp(found)) if points else ("", "")
        except Exception:  # damaged metadata raise many types
            points, facts = [(GROUP, "")], ("", "")
        for point, module in points:
            yield HookEntryPoint(point, name, module, *facts)


def _name(found: metadata.Distribution) -> str:
    try:
        return normalise(found.name)
    except Exception:  # as above
        return "unknown"


def _is_first(found: metadata.Distribution, name: str) -> bool:
    """Return whether it is the first distribution of the name on the path."""
    try:
        return metadata.distribution(name).locate_file("") == found.locate_file("")
    except Exception:  # as above
        return True


def _names_group(found: metadata.Distribution) -> bool:
    with suppress(OSError, UnicodeError):
        return f"[{GROUP}]" in (found.read_text("entry_points.txt") or "")
    return False


def _stamp(found: metadata.Distribution) -> str:
    """Return a text that changes with an installation; "" if it is editable."""
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        return ""
    place = Path(str(found.locate_file("")))
    return f"{place} {place.stat().st_mtime_ns}"


def is_own(distribution: str) -> bool:
    """Return whether this is one of otcache's own packages."""
    return distribution in _OURS


def our_modules() -> Iterator[tuple[str, str]]:
    """Yield (module, distribution) of otcache's own packages beside core, those that are installed."""
    for distribution, module in _OURS.items():
        if distribution != CORE and importlib.util.find_spec(module.partition(".")[0]) is not None:
            yield module, distribution


def normalise(name: str) -> str:
    """Normalise a distribution's name as package indexes do: lower case, runs of ``-_.`` to ``-``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def importable_name(plugin: object) -> str:
    """Return the name by which another process imports a module of hooks.

    Raises:
        PluginError: if it is not a module, or cannot be imported by its name.
    """
    name = getattr(plugin, "__name__", type(plugin).__name__)
    known = isinstance(plugin, ModuleType) and sys.modules.get(name) is plugin
    if not known or name == "__main__" or getattr(plugin, "__spec__", None) is None:
        advice = (
            "register the module that holds its hooks, as registry.register(my_package.plugin)."
        )
        what = "a plugin that other processes use too"
        raise PluginError(expected(what, name, "a module that they can import", advice))
    return name


def _names(text: str) -> frozenset[str]:
    return frozenset(normalise(name) for name in text.split(",") if name.strip())
