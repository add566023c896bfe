"""The contract of each plugin kind, and which extra installs plugins of it."""

from __future__ import annotations

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
