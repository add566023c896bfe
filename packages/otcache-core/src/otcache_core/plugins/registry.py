"""The registry: finds plugins, and isolates the broken ones."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pluggy

from otcache_core.errors import PluginError, PluginWarning, expected
from otcache_core.notices import notify
from otcache_core.plugins import hookspecs
from otcache_core.plugins.discovery import (
    PluginSettings,
    RegistryDescription,
    found_entry_points,
    our_modules,
)
from otcache_core.plugins.info import KINDS, Info
from otcache_core.plugins.lookups import Lookups, Offer

#: What importing foreign code may raise; KeyboardInterrupt stays the user's.
_ANY = (Exception, SystemExit)


class Problem(NamedTuple):
    """Why a plugin, or one of its offers, was left out."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution!r} was left out: {self.reason}"


class Registry(Lookups):
    """All plugins that can be reached, by kind and name.

    Every entry point of the group ``otcache`` is a module with hook implementations
    (:mod:`otcache_core.plugins.hookspecs`). They are imported one by one when the registry is made;
    whatever one of them raises becomes one :class:`~otcache_core.errors.PluginWarning` and an entry
    of :attr:`problems`, and the others are not affected. What a descriptor points at is imported
    only by :meth:`get` and :meth:`create`. That takes some ten milliseconds: :func:`installed` is the
    registry that otcache uses where none is given.

    Environment, read once, comma-separated names of entry points or distributions:
    ``OTCACHE_DISABLE_PLUGINS`` leaves these out (``all``: everything but core),
    ``OTCACHE_LOAD_PLUGINS`` loads only these and core,
    ``OTCACHE_STRICT_PLUGINS=1`` makes a broken plugin an error.

    Args:
        entry_points: look at installed distributions; False gives core's own plugins alone, for
            embedding, and whatever :meth:`register` and :meth:`register_builtin` add.

    Raises:
        PluginError: under ``OTCACHE_STRICT_PLUGINS``, if a plugin is broken.

    Examples:
        >>> registry = Registry(entry_points=False)
        >>> registry.get("forecasters", "reuse").__name__
        'Reuse'
    """

    def __init__(self, entry_points: bool = True) -> None:
        self._offers: dict[str, list[Offer]] = {kind: [] for kind in KINDS}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._problems: list[Problem] = []
        self._settings = PluginSettings.from_environment()
        self._entry_points = entry_points
        self._registered: list[tuple[object, str]] = []
        for name, distribution, load in found_entry_points(self._settings, entry_points):
            try:
                problems = self._add(load(), name, distribution)
            except _ANY as error:
                problems = [Problem(name, distribution, _reason(error))]
            for problem in problems:
                self._report(problem)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was left out and why, in the order of discovery."""
        return tuple(self._problems)

    def register(self, plugin: object, distribution: str = "local") -> None:
        """Add a plugin module or object by hand; what it offers is listed under ``distribution``.

        Raises:
            PluginError: if it is broken: here the caller is the one to tell.
        """
        name = getattr(plugin, "__name__", type(plugin).__name__)
        self._register(lambda: plugin, name, distribution)

    def register_builtin(self) -> None:
        """Add the plugins of otcache's own packages, of those that are installed, and of nobody else.

        ``Registry(entry_points=False)`` is a complete otcache then, whatever else the environment holds.

        Raises:
            PluginError: if one is broken.
        """
        for module, distribution in our_modules():
            if not self._manager.is_registered(sys.modules.get(module)):
                self._register(partial(importlib.import_module, module), module, distribution)

    def description(self) -> RegistryDescription:
        """What another process needs to have the same plugins: see :meth:`from_description`.

        Raises:
            PluginError: if something other than a module that can be imported was registered.
        """
        return RegistryDescription.of(self._entry_points, self._registered)

    @classmethod
    def from_description(cls, description: RegistryDescription) -> Registry:
        """Make the registry that was described, in this process or another.

        Raises:
            PluginError: if a module is broken; under ``OTCACHE_STRICT_PLUGINS`` as the class itself.
        """
        sys.path += [place for place in description.path if place not in sys.path]
        made = cls(description.entry_points)
        for module, distribution in description.modules:
            made._register(partial(importlib.import_module, module), module, distribution)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a description, so that what a registry made can be pickled."""
        return Registry.from_description, (self.description(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Registry:
        """Copies of what a registry made share it."""
        return self

    def _register(self, load: Callable[[], object], name: str, distribution: str) -> None:
        try:
            plugin = load()
            problems = self._add(plugin, name, distribution)
        except _ANY as error:
            raise PluginError(str(Problem(name, distribution, _reason(error)))) from error
        if problems:
            raise PluginError(str(problems[0]))
        self._registered.append((plugin, distribution))

    def _add(self, plugin: object, name: str, distribution: str) -> list[Problem]:
        label = f"{distribution}:{name}"
        try:
            self._manager.register(plugin, label)
            self._manager.check_pending()
        except _ANY:
            if self._manager.has_plugin(label):
                self._manager.unregister(name=label)
            raise
        problems = []
        for kind in KINDS:
            for hook in getattr(self._manager.hook, hook_name(kind)).get_hookimpls():
                if hook.plugin_name == label:
                    reasons = self._collect(kind, hook.function, distribution)
                    problems += [Problem(name, distribution, reason) for reason in reasons]
        return problems

    def _collect(self, kind: str, function: Callable[[], Any], distribution: str) -> list[str]:
        try:
            offers = [Offer(_checked(info), distribution) for info in function()]
        except _ANY as error:
            return [f"{hook_name(kind)}: {_reason(error)}"]
        reasons = []
        for offer in offers:
            if offer.qualified_name in (o.qualified_name for o in self._offers[kind]):
                reasons.append(f"it offers {kind} {offer.info.name!r} twice")
            else:
                self._offers[kind].append(offer)
        return reasons

    def _report(self, problem: Problem) -> None:
        if self._settings.strict:
            raise PluginError(str(problem))
        self._problems.append(problem)
        notify(str(problem), category=PluginWarning)


@cache
def _read() -> Registry:
    return Registry()


_READING = threading.RLock()


def installed() -> Registry:
    """Return the registry of the installed plugins, which is read once in a process.

    Whatever takes a registry uses this one where none is given; what is registered in it by hand is seen by
    all of them.

    Raises:
        PluginError: under ``OTCACHE_STRICT_PLUGINS``, if a plugin is broken.
    """
    with _READING:
        return _read()


def forget_installed() -> None:
    """Read the plugins anew at the next :func:`installed`: another is installed, or a variable changed."""
    _read.cache_clear()


def hook_name(kind: str) -> str:
    """The hook that offers a kind."""
    return f"{hookspecs.PROJECT}_provide_{kind}"


def _checked(info: object) -> Info:
    if not isinstance(info, Info):
        raise PluginError(expected("what a hook returns", info, "an iterable of Info"))
    return info


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
