"""The methods that stand beside each other in the demo's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core import Schedule, ScheduleProblem
from otcache_core.contracts import FeatureProbe, SampleRequest, SpanCosts
from otcache_core.plugins import Registry
from otcache_core.policy import Policy

Progress = Callable[[int, int], None]


def outcome_costs(
    probe: FeatureProbe, pipe: Any, request: SampleRequest, registry: Registry, progress: Progress
) -> NDArray[np.float64]:
    """Span costs of the LeMiCa rule: exact rollouts on the samples, about N^2/6 full runs each."""
    recorded = list(probe.record(pipe, request))
    model = registry.create("cost_models", "outcome", samples=len(recorded), progress=progress)
    found: SpanCosts = model.measure(recorded, probe.evaluator(pipe, request, recorded))
    return found.costs


@dataclass(frozen=True)
class Method:
    """One row a budget.

    Args:
        name: as tables print it.
        schedule: the schedule at a budget; its ``num_steps`` is what the pipeline is called with.
    """

    name: str
    schedule: Callable[[int], Schedule]


def methods(
    registry: Registry, policy: Policy, costs: NDArray[np.float64], num_steps: int
) -> list[Method]:
    """What one would use instead, and otcache.

    Uniform reuse, fewer steps of the same sampler, the LeMiCa rule with reuse, and the rival to beat:
    two-step Adams-Bashforth on a uniform sub-grid, which needs no calibration.
    """
    uniform = registry.create("solvers", "uniform")
    lemica = registry.create("solvers", "lexicographic")

    def solve(solver: object, budget: int) -> Schedule:
        problem = ScheduleProblem(num_steps, budget, costs=costs)
        schedule: Schedule = solver.solve(problem).schedule  # type: ignore[attr-defined]  # plugins are untyped
        return schedule

    return [
        Method("uniform", lambda budget: solve(uniform, budget)),
        Method("fewer steps", Schedule.full),
        Method("LeMiCa rule", lambda budget: solve(lemica, budget)),
        Method(
            "Adams-Bashforth",
            lambda budget: msgspec.structs.replace(solve(uniform, budget), forecaster="linear"),
        ),
        Method("otcache", policy.schedule),
    ]
