"""The solver."""

from otcache_core import Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import ScheduleSolver
from otcache_core.transport import round_to_steps


class Halving(ScheduleSolver):
    r"""Steps at the quantiles Q(u) = (2^u - 1), u = (m-1)/B: the density halves over the run.

    It needs no costs and no evaluator, so its objective is 0 and it claims nothing.
    """

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Place the steps and round them to distinct ones."""
        targets = [2 ** (m / problem.budget) - 1 for m in range(problem.budget)]
        schedule = Schedule(problem.num_steps, round_to_steps(targets, problem.num_steps))
        return Solution(schedule, 0.0, Result.FOUND)
