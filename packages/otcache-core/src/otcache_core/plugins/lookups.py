"""Find plugins by kind and name, and load the requested one."""

from __future__ import annotations

import difflib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, overload

from otcache_core.contracts import (
    Baseline,
    CacheExecutor,
    CostModel,
    FeatureProbe,
    Forecaster,
    FromRegistry,
    Metric,
    ScheduleSolver,
    VideoWriter,
)
from otcache_core.errors import PluginError, expected
from otcache_core.models import Architecture, Demo
from otcache_core.plugins.discovery import is_own, normalise
from otcache_core.plugins.info import KINDS, Info

#: Kinds whose target is a class, and the contract that it subclasses.
CONTRACTS: dict[str, type] = {
    "probes": FeatureProbe,
    "cost_models": CostModel,
    "solvers": ScheduleSolver,
    "executors": CacheExecutor,
    "forecasters": Forecaster,
    "metrics": Metric,
    "baselines": Baseline,
    "writers": VideoWriter,
}
#: Kinds whose target is an instance of this type, or a function that returns one.
VALUES: dict[str, type] = {"demos": Demo, "architectures": Architecture}
#: Extras of ``pip install otcache[...]`` that bring plugins of a kind.
EXTRAS: dict[str, tuple[str, ...]] = {
    "probes": ("diffusers",),
    "cost_models": ("solvers",),
    "solvers": ("solvers",),
    "executors": ("diffusers",),
    "forecasters": ("diffusers",),
    "metrics": ("diffusers", "video"),
    "baselines": ("diffusers", "video"),
    "demos": ("diffusers", "video"),
    "writers": ("video",),
    "architectures": ("diffusers", "video"),
}


def install_hint(kind: str, distributions: set[str]) -> str:
    """Return a sentence with the extras that bring more plugins of a kind; "" if all are installed."""
    missing = [name for name in EXTRAS[kind] if f"otcache-{name}" not in distributions]
    if not missing:
        return ""
    return f" More {kind} come with: pip install 'otcache[{','.join(missing)}]'."


class Offer(NamedTuple):
    """One plugin and the distribution that offers it."""

    info: Info
    distribution: str

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which is unambiguous."""
        return f"{self.distribution}/{self.info.name}"


class Lookups(ABC):
    """Lookup by kind and name; typed, so that ``create("solvers", name)`` is a ``ScheduleSolver``.

    *Foreign* distributions are installed ones that are not otcache's own.
    """

    _offers: dict[str, list[Offer]]
    _lock: threading.RLock

    @abstractmethod
    def _foreign_offers(self, kind: str) -> Iterable[Offer]:
        """Return the offers of foreign distributions that are not imported yet."""

    @abstractmethod
    def _fetch(self, distribution: str) -> list[str]:
        """Import the hooks of a foreign distribution, and return their problems."""

    @abstractmethod
    def _omitted(self) -> str:
        """Return ``a was`` or ``a, b were`` for the distributions that failed to load, or ""."""

    @abstractmethod
    def _is_foreign(self, distribution: str) -> bool:
        """Return whether a distribution is installed and not otcache's own."""

    def known(self, kind: str) -> list[Offer]:
        """Return the imported offers of a kind, sorted by name.

        These are otcache's own, those registered by hand, and those of foreign distributions in use.

        Raises:
            PluginError: if there is no such kind.
        """
        if kind not in KINDS:
            raise PluginError(expected("plugin kind", kind, f"one of {', '.join(KINDS)}"))
        return sorted(self._offers[kind], key=_by_name)

    def infos(self, kind: str) -> list[Offer]:
        """Return all offers of a kind, sorted by name, without importing any in this process.

        Those of foreign distributions are read in child processes (and cached), and lack their options.

        Raises:
            PluginError: if there is no such kind.
        """
        with self._lock:  # another thread may be importing a plugin
            return sorted([*self.known(kind), *self._foreign_offers(kind)], key=_by_name)

    def is_trusted(self, offer: Offer) -> bool:
        """Return whether an offer is otcache's own, or was registered by hand."""
        return not self._is_foreign(offer.distribution)

    def candidates(self, kind: str, *, foreign: bool = True) -> Iterator[Offer]:
        """Yield offers of a kind in the order to try them: trusted (:meth:`is_trusted`), then foreign.

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            foreign: include foreign ones; each is imported only when the iteration reaches it.
        """
        yield from filter(self.is_trusted, self.known(kind))
        if not foreign:
            return
        for distribution in dict.fromkeys(o.distribution for o in self.infos(kind)):
            if self._is_foreign(distribution):
                self._fetch(distribution)
                yield from (o for o in self.known(kind) if o.distribution == distribution)

    def own(self, kind: str, name: str) -> str:
        """Return the qualified name of a trusted plugin: otcache's own, or else one registered by hand.

        Raises:
            PluginError: if there is neither; the message says what to install.
        """
        trusted = [o for o in self.known(kind) if o.info.name == name and self.is_trusted(o)]
        best = [o for o in trusted if is_own(o.distribution)] or trusted
        if not best:
            valid = sorted({o.info.name for o in self.known(kind) if self.is_trusted(o)})
            raise PluginError(self._unknown(kind, name, valid))
        return best[0].qualified_name

    def resolve(self, kind: str, name: str) -> str:
        """Return the qualified name for a name that comes from a file or from otcache's defaults.

        Otcache's own plugin of this name comes first; otherwise the name must be offered only once.

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.

        Raises:
            PluginError: if the name is unknown, or offered more than once and not by otcache.
        """
        own = [o for o in self.known(kind) if o.info.name == name and is_own(o.distribution)]
        return (own[0] if own else self._find(kind, name)).qualified_name

    def get(self, kind: str, name: str) -> Any:
        """Import and return one plugin's target: a class, for kinds in :data:`CONTRACTS`.

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.

        Raises:
            PluginError: if the name is unknown or offered more than once, if its hooks or target cannot be
                imported, or if the target is not a subclass of the kind's contract.
        """
        return self._load(kind, self._find(kind, name))

    @overload
    def create(self, kind: Literal["probes"], name: str, /, *a: Any, **kw: Any) -> FeatureProbe: ...
    @overload
    def create(
        self, kind: Literal["cost_models"], name: str, /, *a: Any, **kw: Any
    ) -> CostModel: ...
    @overload
    def create(
        self, kind: Literal["solvers"], name: str, /, *a: Any, **kw: Any
    ) -> ScheduleSolver: ...
    @overload
    def create(
        self, kind: Literal["executors"], name: str, /, *a: Any, **kw: Any
    ) -> CacheExecutor: ...
    @overload
    def create(
        self, kind: Literal["forecasters"], name: str, /, *a: Any, **kw: Any
    ) -> Forecaster: ...
    @overload
    def create(self, kind: Literal["metrics"], name: str, /, *a: Any, **kw: Any) -> Metric: ...
    @overload
    def create(self, kind: Literal["baselines"], name: str, /, *a: Any, **kw: Any) -> Baseline: ...
    @overload
    def create(self, kind: Literal["writers"], name: str, /, *a: Any, **kw: Any) -> VideoWriter: ...
    @overload
    def create(self, kind: Literal["demos"], name: str, /, *a: Any, **kw: Any) -> Demo: ...
    @overload
    def create(
        self, kind: Literal["architectures"], name: str, /, *a: Any, **kw: Any
    ) -> Architecture: ...
    @overload
    def create(self, kind: str, name: str, /, *a: Any, **kw: Any) -> Any: ...
    def create(self, kind: str, name: str, /, *args: Any, **options: Any) -> Any:
        """Return an instance of a plugin; a target that is an instance already is returned as it is.

        Probes, executors and baselines look up other plugins in this registry, already inside ``__init__``
        (:class:`~otcache_core.contracts.FromRegistry`).

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.
            args: positional arguments of the target.
            options: keyword arguments of the target; they override those of the plugin's descriptor.

        Raises:
            PluginError: as :meth:`get`, or if the target of a demo or an architecture gives something else.
        """
        offer = self._find(kind, name)
        target, value = self._load(kind, offer), VALUES.get(kind)
        if value is not None and isinstance(target, value):
            return target
        takes_registry = isinstance(target, type) and issubclass(target, FromRegistry)
        make = partial(target.made_by, self) if takes_registry else target
        made = make(*args, **{**offer.info.options, **options})
        if value is not None and not isinstance(made, value):
            raise _wrong_target(
                offer, made, f"of type {value.__name__}, or a function that gives one"
            )
        return made

    def _load(self, kind: str, offer: Offer) -> Any:
        try:
            target = offer.info.load()
        except PluginError as error:
            doctor = " otcache plugins doctor says what to do."
            more = install_hint(kind, self._distributions()) if self.is_trusted(offer) else doctor
            raise PluginError(f"{error}{more}") from error
        contract = CONTRACTS.get(kind)
        if contract and not (isinstance(target, type) and issubclass(target, contract)):
            raise _wrong_target(
                offer, target, f"a subclass of otcache_core.contracts.{contract.__name__}"
            )
        return target

    def _find(self, kind: str, name: str) -> Offer:
        distribution, qualified, short = name.rpartition("/")
        if qualified:
            problems = self._fetch(normalise(distribution))
            normalised = f"{normalise(distribution)}/{short}"
            found = [o for o in self.known(kind) if o.qualified_name in (name, normalised)]
        else:
            found = [o for o in self.known(kind) if self.is_trusted(o) and o.info.name == name]
            if not found:
                found, problems = self._find_foreign(kind, name)
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(repr(o.qualified_name) for o in found)
            raise PluginError(
                f"{kind} name {name!r} is offered {len(found)} times: ask for {choices}."
            )
        if problems:
            raise PluginError(f"{'; '.join(problems)}: otcache plugins doctor says what to do.")
        raise PluginError(
            self._unknown(kind, name, sorted({o.info.name for o in self.infos(kind)}))
        )

    def _find_foreign(self, kind: str, name: str) -> tuple[list[Offer], list[str]]:
        """Return the foreign offers of a name, and problems; a single offer is imported first."""
        offers = [o for o in self.infos(kind) if o.info.name == name]
        if len(offers) != 1:
            return offers, []
        problems = self._fetch(offers[0].distribution)
        return [
            o for o in self.known(kind) if o.qualified_name == offers[0].qualified_name
        ], problems

    def _unknown(self, kind: str, name: str, valid: list[str]) -> str:
        near = difflib.get_close_matches(name, valid, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(valid) or "none installed"
        more = install_hint(kind, self._distributions())
        omitted = self._omitted()
        why = f" {omitted} omitted: otcache plugins doctor says why." if omitted else ""
        return f"{kind} has no {name!r}: valid names are {names}.{hint}{more}{why}"

    def _distributions(self) -> set[str]:
        return {o.distribution for offers in self._offers.values() for o in offers}


def _by_name(offer: Offer) -> tuple[str, str]:
    return offer.info.name, offer.distribution


def _wrong_target(offer: Offer, got: object, wanted: str) -> PluginError:
    return PluginError(expected(f"target of {offer.qualified_name!r}", got, wanted))
