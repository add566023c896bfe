"""Contract of a schedule solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from otcache_core.problem import Need, ScheduleProblem, Solution


@dataclass(frozen=True)
class Abilities:
    """What a solver needs, and what it can do.

    Args:
        needs: fields of the problem without which it raises.
        exact: ``Result.OPTIMAL`` wherever the problem is feasible: of its own objective, which is the
            whole of its claim.
        all_budgets: ``frontier`` costs about as much as ``solve`` at its largest budget.
        forecasts: its objective counts forecasts of skipped steps, not only their reuse.
    """

    needs: frozenset[Need] = frozenset()
    exact: bool = False
    all_budgets: bool = False
    forecasts: bool = False


class ScheduleSolver(ABC):
    """Choose the computed steps.

    Laws: pure but for the problem's Evaluator; deterministic given the problem's seed and one
    process; the schedule has exactly the problem's budget and step count; ``lower_bound <=
    objective``; what ``abilities`` names is enough, and a problem that lacks any of it is an error. Of
    what it does not name only gains, anchor, reference and spans marked ``inf`` may be used. An
    exact solver says ``Result.OPTIMAL`` only where brute force over all schedules finds none better. An
    infeasible problem is a value (``Result.INFEASIBLE``), not an exception. INFEASIBLE says that no
    schedule of the budget has finite costs: a heuristic that is stuck says it no more than another solver,
    but finds any schedule that has.
    """

    @property
    def abilities(self) -> Abilities:
        """What it needs, and what it can do: nothing and nothing special unless overridden.

        Override it by a plain class attribute, ``abilities = Abilities(...)``, or by a property where
        it depends on the settings.
        """
        return Abilities()

    @abstractmethod
    def solve(self, problem: ScheduleProblem) -> Solution:
        """Solve one problem. May be called many times, in any order.

        Raises:
            OtcacheError: if the problem lacks what this solver needs.
        """

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """Solve the problem at the budgets 1 .. B, smallest first; one by one unless overridden.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        return [self.solve(replace(problem, budget=b)) for b in range(1, problem.budget + 1)]
