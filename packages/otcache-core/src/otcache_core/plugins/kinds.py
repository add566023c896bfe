"""The contract of each plugin kind, and which extra installs plugins of it."""

from __future__ import annotations

from otcache_core.contracts import (
    CacheExecutor,
    CostModel,
    FeatureProbe,
    Forecaster,
    Metric,
    Peer,
    ScheduleSolver,
)

CONTRACTS: dict[str, type] = {
    "probes": FeatureProbe,
    "cost_models": CostModel,
    "solvers": ScheduleSolver,
    "executors": CacheExecutor,
    "forecasters": Forecaster,
    "metrics": Metric,
    "peers": Peer,
}
EXTRAS = {
    "probes": "diffusers",
    "cost_models": "solvers",
    "solvers": "solvers",
    "executors": "diffusers",
    "forecasters": "diffusers",
    "metrics": "diffusers",
    "peers": "diffusers",
    "demos": "diffusers",
    "architectures": "diffusers",
}


def advice(kind: str, distributions: set[str]) -> str:
    """Which extra to install for plugins of a kind; empty where it is there already."""
    extra = EXTRAS[kind]
    if f"otcache-{extra}" in distributions:
        return ""
    return f" More {kind} come with: pip install 'otcache[{extra}]'."
