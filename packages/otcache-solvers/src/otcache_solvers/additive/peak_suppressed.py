"""The path whose large span costs weigh most: MeanCache's objective, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_solvers.needs import costs_of

Floats = NDArray[np.float64]
#: Powers may span this many factors of ten: then none is lost to a float's range.
DECADES = 290


@final
@dataclass(frozen=True)
class PeakSuppressed(ScheduleSolver):
    r"""Minimise the sum of powers of span costs: between the sum and the worst span.

    A reference implementation: on MeanCache's costs and with its forecast, the error is above the
    default policy's at every budget of docs/quality.md.

    .. math:: \min_{S} \sum_{m=1}^{B} w(k_m \to k_{m+1})^\gamma, \qquad k_{B+1} = N

    by V_b(j) = min_i V_{b-1}(i) + w(i -> j)^gamma, O(B N^2), all budgets up to B in one pass. gamma
    1 is the additive shortest path; as gamma grows the worst span decides. Of equal paths
    the one with the smaller steps at its end is taken. Terms below 1e-16 of the sum count
    as ties.

    References:
        MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference
        (2026), https://arxiv.org/abs/2601.19961, whose gamma is 4.

    Args:
        gamma: exponent; above 0.

    Raises:
        OtcacheError: if gamma is out of range.

    Examples:
        >>> costs = np.triu(np.ones((4, 5)), k=2)
        >>> costs[0, 3] = 1.2
        >>> PeakSuppressed().solve(ScheduleProblem(4, 2, costs=costs)).schedule.computed
        (0, 1)
    """

    abilities = Abilities(needs=frozenset({Need.COSTS}), exact=True, all_budgets=True)

    gamma: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise OtcacheError(expected("gamma", self.gamma, "above 0 and finite"))

    def solve(self, problem: ScheduleProblem) -> Solution:
        """The best schedule of the problem's budget.

        Raises:
            OtcacheError: if the problem has no costs, or their powers do not fit a float.
        """
        return self.frontier(problem)[-1]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """The best schedules of the budgets 1 .. B, from one pass.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        powers, scale = self._powers(costs_of(problem, "peak-suppressed"))
        n = problem.num_steps
        value = np.full(n, np.inf)
        value[0] = 0.0
        found, pointers = [], []
        for _ in range(problem.budget):
            through = value[:, None] + powers
            pointers.append(through.argmin(axis=0))
            best = through[pointers[-1], np.arange(n + 1)]
            found.append(self._solution(pointers, float(best[n]), scale))
            value = best[:n]
        return found

    def _powers(self, costs: Floats) -> tuple[Floats, float]:
        """(w / largest)^gamma, infinite where there is no span, and largest^gamma."""
        usable = np.where(np.tri(*costs.shape) > 0, np.inf, costs)
        positive = usable[np.isfinite(usable) & (usable > 0)]
        if not positive.size:
            return usable, 1.0
        low, high = float(positive.min()), float(positive.max())
        decades = math.log10(high) - math.log10(low)
        if self.gamma * decades > DECADES:
            raise OtcacheError(
                f"span costs from {low:.1e} to {high:.1e} to the power {self.gamma:g} do not fit a "
                f"float: set gamma={math.floor(100 * DECADES / decades) / 100:g} or less, "
                "or use the 'lexicographic' solver, which is the limit of a large gamma."
            )
        if self.gamma * abs(math.log10(high)) > DECADES:
            raise OtcacheError(
                f"the largest span cost, {high:.1e}, to the power {self.gamma:g} does not fit a "
                "float: divide the costs by it."
            )
        return (usable / high) ** self.gamma, high**self.gamma

    def _solution(self, pointers: list[NDArray[np.intp]], value: float, scale: float) -> Solution:
        if math.isinf(value):
            return Solution(None, math.inf, Result.INFEASIBLE)
        n = len(pointers[0]) - 1
        steps, node = [], n
        for best in reversed(pointers):
            node = int(best[node])
            steps.append(node)
        schedule = Schedule(num_steps=n, computed=tuple(reversed(steps)))
        certificate = f"least sum of the problem's span costs to the power {self.gamma:g}"
        total = value * scale
        return Solution(schedule, total, Result.OPTIMAL, total, certificate)
