"""What the program adds to otcache: a module, so that other processes can import it."""

from __future__ import annotations

import sys

from otcache_core import Info, Registry, Result, Schedule, ScheduleProblem, Solution, hookimpl
from otcache_core.contracts import ScheduleSolver
from otcache_core.transport import round_to_steps


class Early(ScheduleSolver):
    """Computes early steps densely: quantiles u^2 of the run."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Place B steps and round them to distinct ones."""
        n, b = problem.num_steps, problem.budget
        steps = round_to_steps([(m / b) ** 2 for m in range(b)], n)
        return Solution(Schedule(n, steps), 0.0, Result.FOUND)


@hookimpl
def otcache_provide_solvers() -> list[Info]:
    """Offer the solver."""
    return [Info("early", f"{__name__}:Early", "dense early steps", api=2)]


def private_registry() -> Registry:
    """Return otcache's own plugins and this program's; whatever else is installed is not looked at."""
    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(sys.modules[__name__], "composing")
    return registry
