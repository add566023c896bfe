"""Evenly spaced computed steps."""

from __future__ import annotations

from typing import final

from otcache_core.contracts.solver import Abilities, ScheduleSolver
from otcache_core.problem import Result, ScheduleProblem, Solution
from otcache_core.schedule import Schedule
from otcache_core.warp import uniform_steps


@final
class Uniform(ScheduleSolver):
    r"""The rule everybody starts from: equal gaps, the first step always.

    A baseline: calibration measures it beside what it plans.

    .. math:: k_m = \lfloor (m-1) N / B \rfloor, \qquad m = 1 \dots B

    so gaps differ by at most one and every B up to N is feasible.
    """

    abilities = Abilities(exact=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Solve one problem; looks at N and B only.

        Returns:
            The objective is the largest gap (a whole number of steps), of which no schedule has a
            smaller one: ceil(N / B).
        """
        n, b = problem.num_steps, problem.budget
        schedule = Schedule(num_steps=n, computed=uniform_steps(n, b))
        gap = float(-(-n // b))
        return Solution(schedule, gap, Result.OPTIMAL, lower_bound=gap, certificate="largest gap")
