"""The registry: finds plugins, isolates the broken ones, and loads the one that is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import pluggy

from otcache_core.architecture import Architecture
from otcache_core.demo import Demo
from otcache_core.errors import PluginError, PluginWarning, expected
from otcache_core.notices import notify
from otcache_core.plugins import hookspecs
from otcache_core.plugins.discovery import PluginSettings, found_entry_points
from otcache_core.plugins.info import KINDS, Info
from otcache_core.plugins.kinds import CONTRACTS, advice

#: What importing foreign code may raise; KeyboardInterrupt stays the user's.
_ANY = (Exception, SystemExit)


class Offer(NamedTuple):
    """One plugin and the distribution that offers it."""

    info: Info
    distribution: str

    @property
    def qualified_name(self) -> str:
        """``distribution/name``: never ambiguous."""
        return f"{self.distribution}/{self.info.name}"


class Problem(NamedTuple):
    """Why a plugin, or one of its offers, was left out."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution!r} was left out: {self.reason}"


class Registry:
    """All plugins that can be reached, by kind and name.

    Every entry point of the group ``otcache`` is a module with hook implementations
    (:mod:`otcache_core.plugins.hookspecs`). They are imported one by one when the registry is made;
    whatever one of them raises becomes one :class:`~otcache_core.errors.PluginWarning` and an entry
    of :attr:`problems`, and the others are not affected. What a descriptor points at is imported
    only by :meth:`get` and :meth:`create`.

    Environment, read once, comma-separated names of entry points or distributions:
    ``OTCACHE_DISABLE_PLUGINS`` leaves these out (``all``: everything but core),
    ``OTCACHE_LOAD_PLUGINS`` loads only these and core,
    ``OTCACHE_STRICT_PLUGINS=1`` makes a broken plugin an error.

    Args:
        entry_points: look at installed distributions; False gives core's own plugins alone, for
            embedding, and whatever :meth:`register` adds.

    Raises:
        PluginError: under ``OTCACHE_STRICT_PLUGINS``, if a plugin is broken.

    Examples:
        >>> registry = Registry(entry_points=False)
        >>> registry.get("forecasters", "reuse").__name__
        'Reuse'
    """

    def __init__(self, entry_points: bool = True) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._offers: dict[str, list[Offer]] = {kind: [] for kind in KINDS}
        self._problems: list[Problem] = []
        self._settings = PluginSettings.from_environment()
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
        try:
            problems = self._add(plugin, name, distribution)
        except _ANY as error:
            raise PluginError(str(Problem(name, distribution, _reason(error)))) from error
        if problems:
            raise PluginError(str(problems[0]))

    def infos(self, kind: str) -> list[Offer]:
        """What is offered of a kind, sorted by name; imports nothing more.

        Raises:
            PluginError: if there is no such kind.
        """
        if kind not in KINDS:
            raise PluginError(expected("plugin kind", kind, f"one of {', '.join(KINDS)}"))
        return sorted(self._offers[kind], key=lambda o: (o.info.name, o.distribution))

    def get(self, kind: str, name: str) -> Any:
        """Import the class of one plugin (for kinds without a contract: its target).

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.

        Raises:
            PluginError: if the name is unknown or offered twice, if the target cannot be imported,
                or if it is not a class of the kind's contract.
        """
        offer = self._find(kind, name)
        try:
            target = offer.info.load()
        except PluginError as error:
            raise PluginError(f"{error}{advice(kind, self._distributions())}") from error
        contract = CONTRACTS.get(kind)
        if contract and not (isinstance(target, type) and issubclass(target, contract)):
            wanted = f"a subclass of otcache_core.contracts.{contract.__name__}"
            raise PluginError(expected(f"target of {offer.qualified_name!r}", target, wanted))
        return target

    def create(self, kind: str, name: str, *args: Any, **kwargs: Any) -> Any:
        """Instantiate one plugin; a demo or an architecture that is already made is returned as it is.

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.
            args: of the target.
            kwargs: of the target, over the options that the plugin's descriptor gives.

        Raises:
            PluginError: as :meth:`get`.
        """
        target = self.get(kind, name)
        if isinstance(target, (Demo, Architecture)):
            return target
        return target(*args, **{**self._find(kind, name).info.options, **kwargs})

    def _find(self, kind: str, name: str) -> Offer:
        offers = self.infos(kind)
        found = [o for o in offers if name in (o.info.name, o.qualified_name)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(repr(o.qualified_name) for o in found)
            raise PluginError(
                f"{kind} name {name!r} is offered {len(found)} times: ask for {choices}."
            )
        raise PluginError(self._unknown(kind, name, sorted({o.info.name for o in offers})))

    def _unknown(self, kind: str, name: str, valid: list[str]) -> str:
        near = difflib.get_close_matches(name, valid, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(valid) or "none installed"
        more = advice(kind, self._distributions())
        return f"{kind} has no {name!r}: valid names are {names}.{hint}{more}"

    def _distributions(self) -> set[str]:
        return {o.distribution for offers in self._offers.values() for o in offers}

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


def hook_name(kind: str) -> str:
    """The hook that offers a kind."""
    return f"{hookspecs.PROJECT}_provide_{kind}"


def _checked(info: object) -> Info:
    if not isinstance(info, Info):
        raise PluginError(expected("what a hook returns", info, "an iterable of Info"))
    return info


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
