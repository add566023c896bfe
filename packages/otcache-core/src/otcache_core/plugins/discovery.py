"""Where plugins come from: installed entry points less what the environment leaves out, or modules."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

from otcache_core.errors import PluginError, expected

GROUP = "otcache"
CORE = "otcache-core"
_BUILTIN = "otcache_core.plugins.builtin"
#: Distribution to module, of the packages that stand on core.
_OURS = {
    "otcache": "otcache.plugin",
    "otcache-diffusers": "otcache_diffusers.plugin",
    "otcache-solvers": "otcache_solvers.plugin",
    "otcache-video": "otcache_video.plugin",
}

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


@dataclass(frozen=True)
class RegistryDescription:
    """A registry as plain data, of which another process of the same environment makes an equal one.

    Args:
        entry_points: whether installed distributions are looked at.
        modules: (module, distribution) of what was registered by hand, in order.
        path: where the describing process looks for modules, if there are any: the other one looks
            there too, after its own places.
    """

    entry_points: bool = True
    modules: tuple[tuple[str, str], ...] = ()
    path: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, entry_points: bool, registered: Sequence[tuple[object, str]]
    ) -> RegistryDescription:
        """Describe what was registered under which distributions.

        Raises:
            PluginError: if that is no module, or one that cannot be imported by its name.
        """
        modules = tuple((_name_of(plugin), distribution) for plugin, distribution in registered)
        return cls(entry_points, modules, tuple(sys.path) if modules else ())


def found_entry_points(settings: PluginSettings, installed: bool) -> Iterator[Found]:
    """Yield (entry point name, distribution, loader): core first, installed or not."""
    yield "core", CORE, lambda: importlib.import_module(_BUILTIN)
    if not installed:
        return
    found = [(p.name, _distribution(p), p.load) for p in metadata.entry_points(group=GROUP)]
    for name, distribution, load in sorted(found, key=lambda f: (f[1], f[0])):
        if distribution != CORE and settings.allows(name, distribution):
            yield name, distribution, load


def our_modules() -> Iterator[tuple[str, str]]:
    """Yield (module, distribution) of otcache's own packages beside core, those that are installed."""
    for distribution, module in _OURS.items():
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            yield module, distribution


def normalise(name: str) -> str:
    """A distribution's name as package indexes spell it: lower case, runs of ``-_.`` to ``-``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _name_of(plugin: object) -> str:
    """Return the name by which another process imports a module of hooks."""
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


def _distribution(point: metadata.EntryPoint) -> str:
    return normalise(point.dist.name) if point.dist is not None else "unknown"
