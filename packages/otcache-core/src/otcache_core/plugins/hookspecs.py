"""The hooks a plugin implements. A whole plugin is two lines and one class:

.. code-block:: python

    # my_package/plugin.py, named in pyproject.toml under [project.entry-points.otcache]
    from otcache_core.plugins import Info, hookimpl

    @hookimpl
    def otcache_provide_solvers():
        return [Info("my-solver", "my_package.solver:MySolver", "one line about it", api=2)]
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from otcache_core.plugins.info import Info

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
    """Offer :class:`~otcache_core.contracts.Baseline` classes: rivals for ``otcache compare``."""


@hookspec
def otcache_provide_demos() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer demo pipelines: a target that gives :class:`~otcache_core.demo.Demo`."""


@hookspec
def otcache_provide_writers() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer :class:`~otcache_core.contracts.ClipWriter` classes: files of clips, by suffix."""


@hookspec
def otcache_provide_architectures() -> Iterable[Info]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer published models: targets that give :class:`~otcache_core.architecture.Architecture`."""
