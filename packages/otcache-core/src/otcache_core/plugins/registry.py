"""The registry of plugins, in which a broken one does not affect the others."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import pluggy

from otcache_core.errors import PluginError, PluginWarning, expected
from otcache_core.notices import notify
from otcache_core.plugins import info as hookspecs
from otcache_core.plugins.discovery import (
    HookEntryPoint,
    PluginSettings,
    RegistryDescription,
    found_entry_points,
    importable_name,
    our_modules,
)
from otcache_core.plugins.info import KINDS, Info, interruptible, reason_of
from otcache_core.plugins.lookups import Lookups, Offer
from otcache_core.plugins.plugin_scan import ScanResult, scan_entry_points

#: Findings for which a plugin is omitted.
OMITTED = ("import", "ended", "hook", "offer")


class Problem(NamedTuple):
    """Why a plugin, or one of its offers, was omitted."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution!r} was omitted: {self.reason}"


class Registry(Lookups):
    """All plugins that can be reached, by kind and name.

    Every entry point of the group ``otcache`` is a module with hook implementations
    (:mod:`otcache_core.plugins.info`). Those of otcache's own packages are imported when the
    registry is made, which takes some ten milliseconds: :func:`installed` is the default registry of
    otcache. A foreign one is imported when a plugin of its distribution is requested, and never for a list:
    if all names are needed, foreign modules are read in child processes
    (:mod:`otcache_core.plugins.plugin_scan`). The target of a descriptor is imported only by :meth:`get` and
    :meth:`create`.

    Whatever a module raises becomes one :class:`~otcache_core.errors.PluginWarning` and an entry of
    :attr:`problems`, and the others are not affected.

    Environment, read once, comma-separated names of entry points or distributions:
    ``OTCACHE_DISABLE_PLUGINS`` omits these (``all``: everything but core),
    ``OTCACHE_LOAD_PLUGINS`` loads only these and core,
    ``OTCACHE_STRICT_PLUGINS=1`` reads all at once, and makes a broken plugin an error.

    Args:
        entry_points: look at installed distributions; False gives core's own plugins alone, and
            those that :meth:`register` and :meth:`register_builtin` add.

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
        self._foreign: list[HookEntryPoint] = []
        self._imported: set[HookEntryPoint] = set()
        self._results: dict[HookEntryPoint, ScanResult] | None = None
        self._lock = threading.RLock()
        for point in found_entry_points(self._settings, entry_points):
            if point.ours:
                self._import(point)
            else:
                self._foreign.append(point)
        if self._settings.strict:
            self.scan()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was omitted and why, in the order of discovery; reads foreign plugins as a list does."""
        self.scan()
        return tuple(self._problems)

    def scan(self) -> tuple[ScanResult, ...]:
        """Read what the foreign distributions offer, once, in child processes; none is imported here.

        Each that cannot be read gives one warning, and an entry of :attr:`problems`.

        Raises:
            PluginError: under ``OTCACHE_STRICT_PLUGINS``, if a plugin is broken.
        """
        with self._lock:
            if self._results is None:
                read = scan_entry_points(self._foreign)
                self._results = dict(zip(self._foreign, read, strict=True))
                for point, result in self._results.items():
                    if point not in self._imported:
                        self._report_findings(result)
            return tuple(self._results.values())

    def _foreign_offers(self, kind: str) -> Iterator[Offer]:
        self.scan()
        for point, result in (self._results or {}).items():
            if point not in self._imported:
                yield from (
                    Offer(one.info(), point.distribution)
                    for one in result.offers
                    if one.kind == kind
                )

    def _omitted(self) -> str:
        names = sorted({problem.distribution for problem in self._problems})
        return f"{', '.join(names)} {'were' if len(names) > 1 else 'was'}" if names else ""

    def _is_foreign(self, distribution: str) -> bool:
        return any(point.distribution == distribution for point in self._foreign)

    def _fetch(self, distribution: str) -> list[str]:
        with self._lock:
            points = [p for p in self._foreign if p.distribution == distribution]
            for point in points:
                if point not in self._imported:
                    self._imported.add(point)  # first, since it may request plugins itself
                    try:
                        self._import(point)
                    except KeyboardInterrupt:
                        self._imported.discard(point)  # it is imported again next time
                        raise
            names = {point.name for point in points}
            return [
                str(p)
                for p in self._problems
                if p.distribution == distribution and p.plugin in names
            ]

    def failed(self, offer: Offer, error: BaseException) -> str:
        """Report, once, that a plugin raised and is skipped.

        Returns:
            The reason, in words.

        Raises:
            PluginError: under ``OTCACHE_STRICT_PLUGINS``.
            KeyboardInterrupt: if that was raised.
        """
        reason = reason_of(error)
        self._report(Problem(offer.info.name, offer.distribution, reason))
        return reason

    def register(self, plugin: object, distribution: str = "local") -> None:
        """Add a plugin module or object by hand; its offers are listed under ``distribution``.

        Raises:
            PluginError: if it is broken.
        """
        name = getattr(plugin, "__name__", type(plugin).__name__)
        self._register(lambda: plugin, name, distribution)

    def register_builtin(self) -> None:
        """Add the plugins of otcache's own packages that are installed, and no others.

        ``Registry(entry_points=False)`` then has all of otcache, independent of other installed plugins.

        Raises:
            PluginError: if one is broken.
        """
        for module, distribution in our_modules():
            if not self._manager.is_registered(sys.modules.get(module)):
                self._register(partial(importlib.import_module, module), module, distribution)

    def description(self) -> RegistryDescription:
        """Describe it for another process: see :meth:`from_description`.

        Raises:
            PluginError: if something other than a module that can be imported was registered.
        """
        modules = tuple((importable_name(plugin), name) for plugin, name in self._registered)
        return RegistryDescription(self._entry_points, modules, tuple(sys.path) if modules else ())

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
        """Pickle the description, so that plugins that know their registry can be pickled."""
        return Registry.from_description, (self.description(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Registry:
        """Return itself: copies of a plugin share its registry."""
        return self

    def _register(self, load: Callable[[], object], name: str, distribution: str) -> None:
        try:
            plugin = load()
            problems = self.add(plugin, name, distribution)
        except BaseException as error:
            raise PluginError(str(Problem(name, distribution, reason_of(error)))) from error
        if problems:
            raise PluginError(str(problems[0]))
        self._registered.append((plugin, distribution))

    def _import(self, point: HookEntryPoint) -> None:
        """Import a module of hooks and add its offers; errors are reported."""
        try:
            problems = self.add(
                interruptible(point.load, str(point)), point.name, point.distribution
            )
        except BaseException as error:
            problems = [Problem(point.name, point.distribution, reason_of(error))]
        for problem in problems:
            self._report(problem)

    def add(self, plugin: object, name: str, distribution: str) -> list[Problem]:
        """Add the offers of a plugin, and return problems with parts of it.

        Raises:
            PluginError: if it has unknown hooks.
        """
        label = f"{distribution}:{name}"
        try:
            self._manager.register(plugin, label)
            self._manager.check_pending()
        except BaseException:
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
        except BaseException as error:
            return [f"{hook_name(kind)}: {reason_of(error)}"]
        reasons = []
        for offer in offers:
            if offer.qualified_name in (o.qualified_name for o in self._offers[kind]):
                reasons.append(f"it offers {kind} {offer.info.name!r} twice")
            else:
                self._offers[kind].append(offer)
        return reasons

    def _report_findings(self, result: ScanResult) -> None:
        """Report findings for which a foreign plugin is omitted; ``plugins doctor`` lists the others."""
        for found in result.findings:
            if found.kind in OMITTED:
                self._report(Problem(result.point, result.distribution, found.what))

    def _report(self, problem: Problem) -> None:
        if self._settings.strict:
            raise PluginError(str(problem))
        if problem in self._problems:
            return
        self._problems.append(problem)
        notify(str(problem), category=PluginWarning)


@cache
def _read() -> Registry:
    return Registry()


_INSTALLED = threading.RLock()


def installed() -> Registry:
    """Return the registry of the installed plugins, which is read once in a process.

    It is the default wherever a registry may be given; what is registered in it by hand counts everywhere.

    Raises:
        PluginError: under ``OTCACHE_STRICT_PLUGINS``, if a plugin is broken.
    """
    with _INSTALLED:
        return _read()


def forget_installed() -> None:
    """Read the plugins again at the next :func:`installed`, after an installation or a changed variable."""
    _read.cache_clear()


def hook_name(kind: str) -> str:
    """Return the name of the hook that offers a kind."""
    return f"{hookspecs.PROJECT}_provide_{kind}"


def _checked(info: object) -> Info:
    """Return the descriptor made again from its fields: a subclass may not have checked them."""
    if not isinstance(info, Info):
        raise PluginError(expected("what a hook returns", info, "an iterable of Info"))
    given = (info.name, info.target, info.summary, info.api, info.requires, info.options)
    return Info(*given)
