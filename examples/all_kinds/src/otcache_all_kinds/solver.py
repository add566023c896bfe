"""The solver."""

from dataclasses import dataclass
from math import inf
from typing import final

import numpy as np

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver


@final
@dataclass(frozen=True)
class Bottleneck(ScheduleSolver):
    r"""Make the dearest span as cheap as can be: no reuse is much worse than the others.

    .. math:: \min_{0 = k_1 < \dots < k_B} \; \max_m w(k_m \to k_{m+1}), \qquad k_{B+1} = N

    by dynamic programming over the number of spans, in O(B N^2).
    """

    abilities = Abilities(needs=frozenset({Need.COSTS}), exact=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Find the best path of B spans from 0 to N.

        Raises:
            OtcacheError: if the problem has no costs.
        """
        if problem.costs is None:
            raise OtcacheError(
                "the solver 'bottleneck' needs costs: give it a problem that has them."
            )
        n = problem.num_steps
        costs = np.where(np.tri(n, n + 1, dtype=bool), inf, problem.costs)
        best, came = np.full(n + 1, inf), []
        best[0] = 0.0
        for _ in range(problem.budget):
            worst = np.maximum(best[:n, None], costs)
            came.append(worst.argmin(axis=0))
            best = worst.min(axis=0)
        objective = float(best[n])
        if objective == inf:
            return Solution(None, inf, Result.INFEASIBLE)
        ends = [n]
        for start in reversed(came):
            ends.append(int(start[ends[-1]]))
        schedule = Schedule(n, tuple(reversed(ends[1:])))
        claim = "the largest span cost"
        return Solution(schedule, objective, Result.OPTIMAL, objective, claim)
