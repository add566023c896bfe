"""Find plugins by kind and name, and load the requested one."""

from __future__ import annotations

import difflib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, overload

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

Probes: TypeAlias = Literal["probes"]
CostModels: TypeAlias = Literal["cost_models"]
Solvers: TypeAlias = Literal["solvers"]
Executors: TypeAlias = Literal["executors"]
Forecasters: TypeAlias = Literal["forecasters"]
Metrics: TypeAlias = Literal["metrics"]
Baselines: TypeAlias = Literal["baselines"]
Demos: TypeAlias = Literal["demos"]
Writers: TypeAlias = Literal["writers"]
Architectures: TypeAlias = Literal["architectures"]

#: The target is a subclass of this.
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
#: The target is one of these, or makes one when it is called.
VALUES: dict[str, type] = {"demos": Demo, "architectures": Architecture}
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


def advice(kind: str, distributions: set[str]) -> str:
    """Return which extras to install for plugins of a kind; "" if they are installed."""
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
        """``distribution/name``: never ambiguous."""
        return f"{self.distribution}/{self.info.name}"


class Lookups(ABC):
    """Finds offers, typed by their kind: ``create("solvers", name)`` is a ``ScheduleSolver``."""

    _offers: dict[str, list[Offer]]
    _lock: threading.RLock

    @abstractmethod
    def _foreign_offers(self, kind: str) -> Iterable[Offer]:
        """Return the descriptors of foreign distributions that are not imported."""

    @abstractmethod
    def _fetch(self, distribution: str) -> list[str]:
        """Import the hooks of a foreign distribution, and return their problems."""

    @abstractmethod
    def _omitted(self) -> str:
        """Return the omitted distributions and a verb; "" if there are none."""

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
        return sorted(self._offers[kind], key=_order)

    def infos(self, kind: str) -> list[Offer]:
        """Return all offers of a kind, sorted by name; imports nothing more here.

        Offers of foreign distributions are read in child processes, once, and come without options.

        Raises:
            PluginError: if there is no such kind.
        """
        with self._lock:  # another thread may be importing one
            return sorted([*self.known(kind), *self._foreign_offers(kind)], key=_order)

    def is_trusted(self, offer: Offer) -> bool:
        """Return whether it is otcache's own, or was registered by hand."""
        return not self._is_foreign(offer.distribution)

    def candidates(self, kind: str, *, foreign: bool = True) -> Iterator[Offer]:
        """Yield offers of a kind to try in order: our own and those registered by hand, then foreign ones.

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            foreign: include foreign ones, which are imported only when they are reached.
        """
        yield from filter(self.is_trusted, self.known(kind))
        if not foreign:
            return
        for distribution in dict.fromkeys(o.distribution for o in self.infos(kind)):
            if self._is_foreign(distribution):
                self._fetch(distribution)
                yield from (o for o in self.known(kind) if o.distribution == distribution)

    def own(self, kind: str, name: str) -> str:
        """Return the qualified name of a plugin that otcache needs: its own, or one registered by hand.

        Raises:
            PluginError: if there is neither; the message says what installs it.
        """
        trusted = [o for o in self.known(kind) if o.info.name == name and self.is_trusted(o)]
        best = [o for o in trusted if is_own(o.distribution)] or trusted
        if not best:
            valid = sorted({o.info.name for o in self.known(kind) if self.is_trusted(o)})
            raise PluginError(self._unknown(kind, name, valid))
        return best[0].qualified_name

    def resolve(self, kind: str, name: str) -> str:
        """Return the qualified name for a name in a file, or for one of otcache's defaults.

        That is otcache's own plugin of this name if there is one, else the only one.

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.

        Raises:
            PluginError: if the name is unknown, or offered twice by others.
        """
        own = [o for o in self.known(kind) if o.info.name == name and is_own(o.distribution)]
        return (own[0] if own else self._find(kind, name)).qualified_name

    def get(self, kind: str, name: str) -> Any:
        """Import the class of one plugin (for kinds without a contract: its target).

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.

        Raises:
            PluginError: if the name is unknown or offered twice, if its hooks or its target cannot be
                imported, or if that is not a class of the kind's contract.
        """
        return self._load(kind, self._find(kind, name))

    @overload
    def create(self, kind: Probes, name: str, /, *args: Any, **options: Any) -> FeatureProbe: ...
    @overload
    def create(self, kind: CostModels, name: str, /, *args: Any, **options: Any) -> CostModel: ...
    @overload
    def create(self, kind: Solvers, name: str, /, *args: Any, **options: Any) -> ScheduleSolver: ...
    @overload
    def create(
        self, kind: Executors, name: str, /, *args: Any, **options: Any
    ) -> CacheExecutor: ...
    @overload
    def create(self, kind: Forecasters, name: str, /, *args: Any, **options: Any) -> Forecaster: ...
    @overload
    def create(self, kind: Metrics, name: str, /, *args: Any, **options: Any) -> Metric: ...
    @overload
    def create(self, kind: Baselines, name: str, /, *args: Any, **options: Any) -> Baseline: ...
    @overload
    def create(self, kind: Writers, name: str, /, *args: Any, **options: Any) -> VideoWriter: ...
    @overload
    def create(self, kind: Demos, name: str, /, *args: Any, **options: Any) -> Demo: ...
    @overload
    def create(
        self, kind: Architectures, name: str, /, *args: Any, **options: Any
    ) -> Architecture: ...
    @overload
    def create(self, kind: str, name: str, /, *args: Any, **options: Any) -> Any: ...
    def create(self, kind: str, name: str, /, *args: Any, **options: Any) -> Any:
        """Make an instance of a plugin; a demo or an architecture that is one already is returned as it is.

        Probes, executors and baselines know this registry as their own, inside ``__init__`` too
        (:class:`~otcache_core.contracts.FromRegistry`).

        Args:
            kind: one of :data:`~otcache_core.plugins.KINDS`.
            name: a name, or ``distribution/name``.
            args: of the target.
            options: of the target, over those that the plugin's descriptor gives.

        Raises:
            PluginError: as :meth:`get`, or if what should be a demo or an architecture is none.
        """
        offer = self._find(kind, name)
        target, value = self._load(kind, offer), VALUES.get(kind)
        if value is not None and isinstance(target, value):
            return target
        ours = isinstance(target, type) and issubclass(target, FromRegistry)
        make = partial(target.made_by, self) if ours else target
        made = make(*args, **{**offer.info.options, **options})
        if value is not None and not isinstance(made, value):
            raise _misfit(offer, made, f"of type {value.__name__}, or a function that gives one")
        return made

    def _load(self, kind: str, offer: Offer) -> Any:
        try:
            target = offer.info.load()
        except PluginError as error:
            doctor = " otcache plugins doctor says what to do."
            more = advice(kind, self._distributions()) if self.is_trusted(offer) else doctor
            raise PluginError(f"{error}{more}") from error
        contract = CONTRACTS.get(kind)
        if contract and not (isinstance(target, type) and issubclass(target, contract)):
            raise _misfit(
                offer, target, f"a subclass of otcache_core.contracts.{contract.__name__}"
            )
        return target

    def _find(self, kind: str, name: str) -> Offer:
        distribution, qualified, short = name.rpartition("/")
        if qualified:
            wrong = self._fetch(normalise(distribution))
            meant = f"{normalise(distribution)}/{short}"
            found = [o for o in self.known(kind) if o.qualified_name in (name, meant)]
        else:
            found = [o for o in self.known(kind) if self.is_trusted(o) and o.info.name == name]
            if not found:
                found, wrong = self._find_foreign(kind, name)
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(repr(o.qualified_name) for o in found)
            raise PluginError(
                f"{kind} name {name!r} is offered {len(found)} times: ask for {choices}."
            )
        if wrong:
            raise PluginError(f"{'; '.join(wrong)}: otcache plugins doctor says what to do.")
        raise PluginError(
            self._unknown(kind, name, sorted({o.info.name for o in self.infos(kind)}))
        )

    def _find_foreign(self, kind: str, name: str) -> tuple[list[Offer], list[str]]:
        """Return the foreign offers of a name, imported if there is one alone, and problems with it."""
        offers = [o for o in self.infos(kind) if o.info.name == name]
        if len(offers) != 1:
            return offers, []
        wrong = self._fetch(offers[0].distribution)
        return [o for o in self.known(kind) if o.qualified_name == offers[0].qualified_name], wrong

    def _unknown(self, kind: str, name: str, valid: list[str]) -> str:
        near = difflib.get_close_matches(name, valid, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(valid) or "none installed"
        more = advice(kind, self._distributions())
        omitted = self._omitted()
        why = f" {omitted} omitted: otcache plugins doctor says why." if omitted else ""
        return f"{kind} has no {name!r}: valid names are {names}.{hint}{more}{why}"

    def _distributions(self) -> set[str]:
        return {o.distribution for offers in self._offers.values() for o in offers}


def _order(offer: Offer) -> tuple[str, str]:
    return offer.info.name, offer.distribution


def _misfit(offer: Offer, got: object, wanted: str) -> PluginError:
    return PluginError(expected(f"target of {offer.qualified_name!r}", got, wanted))
