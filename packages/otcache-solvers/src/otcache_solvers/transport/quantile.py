"""Displacement interpolation between two schedules, as a solver."""

from __future__ import annotations

from typing import final

import numpy as np

from otcache_core import Result, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.transport import coordinate, interpolate, targets_between
from otcache_solvers.needs import ENDPOINTS, endpoints_of
from otcache_solvers.transport.geodesic import NEAREST


@final
class Quantile(ScheduleSolver):
    r"""Read the schedule of any budget off the W2 geodesic from anchor to reference.

    .. math:: Q_\lambda = (1-\lambda) Q_{anchor} + \lambda Q_{reference}, \qquad
              \min_{k} \sum_m \big( k_m - N Q_\lambda(\tfrac{m-1}{B}) \big)^2

    with lam = (1/B_a - 1/B) / (1/B_a - 1/B_r), clamped to [0, 1]. No evaluation; anchor and
    reference themselves (weights included) at their own budgets.

    References:
        OTCache (2026), https://arxiv.org/abs/2606.31026, whose abstract names the idea; the
        formulas are this project's: :mod:`otcache_core.transport`.

    Examples:
        >>> from otcache_core import Schedule
        >>> ends = [Schedule(num_steps=12, computed=c) for c in ((0, 6), (0, 1, 2, 4, 6, 8))]
        >>> problem = ScheduleProblem(12, 3, anchor=ends[0], reference=ends[1])
        >>> Quantile().solve(problem).schedule.computed
        (0, 3, 7)
    """

    abilities = Abilities(needs=ENDPOINTS, exact=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Interpolate; the objective is the distance to the quantile function.

        Raises:
            OtcacheError: if the problem has no anchor or no reference.
        """
        anchor, reference = endpoints_of(problem, "quantile")
        schedule = interpolate(anchor, reference, problem.budget)
        lam = coordinate(problem.budget, anchor.budget, reference.budget)
        q = targets_between(anchor, reference, problem.budget, lam)
        gap = float(np.square(np.array(schedule.computed) - problem.num_steps * q).sum())
        return Solution(schedule, gap, Result.OPTIMAL, gap, NEAREST, stats={"lam": lam})
