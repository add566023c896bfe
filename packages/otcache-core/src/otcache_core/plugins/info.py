"""The hooks a plugin implements, and the descriptor they return.

A whole plugin is two lines and one class:

.. code-block:: python

    # my_package/plugin.py, named in pyproject.toml under [project.entry-points.otcache]
    from otcache_core.plugins import Info, hookimpl

    @hookimpl
    def otcache_provide_solvers():
        return [Info("my-solver", "my_package.solver:MySolver", "one line about it", api=2)]
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pluggy

from otcache_core.errors import PluginError, PluginWarning, expected
from otcache_core.notices import notify

API_VERSION = 2
#: What foreign code may raise, except interrupts.
ANY = (Exception, SystemExit)
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Info:
    """Where a plugin lives, without importing it.

    Args:
        name: unique in its kind; lower-case words joined by hyphens.
        target: ``package.module:Class``; imported on first use.
        summary: one line for ``otcache plugins list``.
        api: version of the otcache plugin interface it was written for. Specify it: the default is the
            installed version.
        requires: distributions, as ``scikit-image``, that it needs and its own does not install.
        options: default keyword arguments of the target, so that plugins which differ in one setting share
            a class.

    Raises:
        PluginError: if a field is malformed.
    """

    name: str
    target: str
    summary: str = ""
    api: int = API_VERSION
    requires: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PluginError(
                expected("Info.name", self.name, "lower-case words joined by hyphens")
            )
        module, _, attribute = str(self.target).partition(":")
        if not isinstance(self.target, str) or not module or not attribute.isidentifier():
            raise PluginError(expected("Info.target", self.target, "'package.module:Class'"))
        if not isinstance(self.summary, str):
            raise PluginError(expected("Info.summary", self.summary, "one line of text"))
        if type(self.api) is not int:
            raise PluginError(expected("Info.api", self.api, "a whole number"))
        if not _are_names(self.requires):
            raise PluginError(expected("Info.requires", self.requires, "a tuple of distributions"))
        if not isinstance(self.options, Mapping) or not _are_names(tuple(self.options)):
            raise PluginError(expected("Info.options", self.options, "arguments by name"))

    def missing(self) -> tuple[str, ...]:
        """Return which of the distributions that it requires are not installed; imports nothing."""
        return tuple(name for name in self.requires if not _is_installed(name))

    def load(self) -> Any:
        """Import the target.

        Raises:
            PluginError: if it cannot be imported, or its api version is another.
        """
        if self.api != API_VERSION:
            what = f"plugin {self.name!r} api"
            advice = "update the plugin." if self.api < API_VERSION else "update otcache-core."
            raise PluginError(expected(what, self.api, str(API_VERSION), advice))
        module, _, attribute = self.target.partition(":")

        def load() -> Any:
            return getattr(importlib.import_module(module), attribute)

        try:
            return interruptible(load, f"plugin {self.name!r}")
        except BaseException as error:
            reason, given = reason_of(error), getattr(sys.modules.get(module), "__dict__", {})
            near = (
                difflib.get_close_matches(attribute, given, n=1) if attribute not in given else []
            )
            hint = f" Did you mean {f'{module}:{near[0]}'!r}?" if near else ""
            raise PluginError(
                f"plugin {self.name!r}: cannot load {self.target!r}: {reason}.{hint}"
            ) from error


def interruptible(load: Callable[[], Any], plugin: str) -> Any:
    """Import foreign code; an interrupt meanwhile names the plugin.

    Raises:
        KeyboardInterrupt: with the plugin's name, which a notice has too.
    """
    try:
        return load()
    except KeyboardInterrupt as error:
        message = f"while {plugin} was imported"
        notify(f"interrupted {message}.", category=PluginWarning)
        raise KeyboardInterrupt(message) from error


def reason_of(error: BaseException) -> str:
    """Return the type and the message of an exception of foreign code.

    Raises:
        KeyboardInterrupt: if that was raised, by the user.
    """
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ failed
        return type(error).__name__


def _are_names(values: object) -> bool:
    texts = values if isinstance(values, tuple | list) else [None]
    return all(isinstance(text, str) and text for text in texts)


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):
        return False
    return True


PROJECT = "otcache"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def otcache_provide_probes() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.FeatureProbe` classes."""


@hookspec
def otcache_provide_cost_models() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.CostModel` classes."""


@hookspec
def otcache_provide_solvers() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.ScheduleSolver` classes."""


@hookspec
def otcache_provide_executors() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.CacheExecutor` classes."""


@hookspec
def otcache_provide_forecasters() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.Forecaster` classes."""


@hookspec
def otcache_provide_metrics() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.Metric` classes: of pairs, of prompts or of a set."""


@hookspec
def otcache_provide_baselines() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.Baseline` classes: other methods for ``otcache compare``."""


@hookspec
def otcache_provide_demos() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer demo pipelines: a target that gives :class:`~otcache_core.models.Demo`."""


@hookspec
def otcache_provide_writers() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.VideoWriter` classes: files of videos, by suffix."""


@hookspec
def otcache_provide_architectures() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer published models: targets that give :class:`~otcache_core.models.Architecture`."""


#: The kinds of plugins, one for each hook.
KINDS = tuple(
    name.removeprefix(f"{PROJECT}_provide_")
    for name in tuple(globals())
    if name.startswith(f"{PROJECT}_provide_")
)
