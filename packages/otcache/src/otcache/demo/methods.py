"""The methods that stand beside each other in the demo's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from otcache_core import Schedule, ScheduleProblem
from otcache_core.plugins import Registry
from otcache_core.policy import Policy


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
    """Uniform reuse, fewer steps of the same sampler, the LeMiCa rule with reuse, and otcache."""
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
        Method("otcache", policy.schedule),
    ]
