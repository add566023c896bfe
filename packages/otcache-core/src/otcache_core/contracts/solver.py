"""Contract of a schedule solver."""

from __future__ import annotations

from abc import ABC, abstractmethod

from otcache_core.problem import ScheduleProblem, Solution


class ScheduleSolver(ABC):
    """Choose the computed steps.

    Laws: pure but for the problem's Evaluator; deterministic given the problem's seed and one
    process; the schedule has exactly the problem's budget and step count; ``lower_bound <=
    objective``. An exact solver says ``Result.OPTIMAL`` only where brute force over
    all schedules finds none better. An infeasible problem is a value (``Result.INFEASIBLE``), not
    an exception.
    """

    @abstractmethod
    def solve(self, problem: ScheduleProblem) -> Solution:
        """Solve one problem. May be called many times, in any order.

        Raises:
            OtcacheError: if the problem lacks what this solver needs (costs, an evaluator, endpoint
                policies).
        """
