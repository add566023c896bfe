"""The kinds of plugins: the contract of each, and which extra installs plugins of it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from otcache_core.architecture import Architecture
from otcache_core.contracts import (
    Baseline,
    CacheExecutor,
    ClipWriter,
    CostModel,
    FeatureProbe,
    Forecaster,
    Metric,
    ScheduleSolver,
)
from otcache_core.demo import Demo

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
    "writers": ClipWriter,
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
    """Which extras to install for plugins of a kind; empty where they are there already."""
    missing = [name for name in EXTRAS[kind] if f"otcache-{name}" not in distributions]
    if not missing:
        return ""
    return f" More {kind} come with: pip install 'otcache[{','.join(missing)}]'."
