"""Transport between two schedules in which computation may also be created or destroyed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from otcache_core import ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_solvers.needs import endpoints_of
from otcache_solvers.transport.base import Geodesic
from otcache_solvers.transport.coupling import reported
from otcache_solvers.transport.ground_cost import (
    GroundCost,
    between,
    check_ground_cost,
    ground_cost,
    needs_of,
)
from otcache_solvers.transport.penalties import Penalty, TotalVariation


@final
@dataclass(frozen=True, eq=False)
class Unbalanced(ScheduleSolver):
    r"""Every computed step is one unit of mass; units move, or are made and dropped at a price.

    A reference implementation: with fitted forecasts its schedules are seldom better, and often worse, than
    those of ``quantile`` (docs/solvers.md).

    .. math:: \min_{\pi \ge 0} \langle C, \pi \rangle + \rho D(\pi 1 \,|\, \mu)
              + \rho D(\pi^T 1 \,|\, \nu), \qquad \mu = \sum_{a \in S_a} \delta_a, \quad
              \nu = \sum_{b \in S_r} \delta_b

    The measure in between (:class:`~otcache_solvers.transport.base.Geodesic`) has the mass
    (1-lam) B_a + lam B_r, so here lam = (B - B_a) / (B_r - B_a), clamped to [0, 1]: linear in B. It
    is read at every whole unit and rounded to B distinct steps. Mass that both schedules have at one
    step stays there and the rest comes and goes, where balanced transport thins the reference
    everywhere at once; since a unit is spread over the span it serves, a step that both
    schedules compute may still be rounded to a neighbour in between.

    Laws: at their own budgets anchor and reference come back, exactly, weights included. For equal
    budgets it tends to balanced transport as the penalty grows.

    References:
        docs/theory.md, section 5.5; those of :mod:`otcache_solvers.transport.penalties`.

    Args:
        penalty: D and rho, :class:`~otcache_solvers.transport.penalties.TotalVariation` or
            :class:`~otcache_solvers.transport.penalties.KullbackLeibler`.
        cost: C, shape (N, N), or a name: ``step``, ``noise`` or ``trajectory``
            (:func:`~otcache_solvers.transport.ground_cost.ground_cost`).

    Raises:
        OtcacheError: if there is no ground cost of that name.

    Examples:
        >>> from otcache_core import Schedule
        >>> ends = [Schedule(num_steps=12, computed=c) for c in ((0, 6), (0, 1, 2, 4, 6, 8))]
        >>> problem = ScheduleProblem(12, 4, anchor=ends[0], reference=ends[1])
        >>> solution = Unbalanced().solve(problem)
        >>> solution.schedule.budget, solution.stats["lam"], solution.stats["transported"]
        (4, 0.5, 2.0)
    """

    penalty: Penalty = field(default_factory=TotalVariation)
    cost: GroundCost = "step"

    def __post_init__(self) -> None:
        check_ground_cost(self.cost)

    @property
    def abilities(self) -> Abilities:
        """What is exact is the rounding to steps, after a penalty that always converges."""
        return Abilities(needs_of(self.cost), exact=self.penalty.exact)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """The interpolated schedule; the objective is its distance to the quantile function.

        Raises:
            OtcacheError: if the problem has no anchor or no reference, or not what the ground cost
                needs, that does not fit, or a linear program fails.
        """
        anchor, reference = endpoints_of(problem, "unbalanced")
        cost = ground_cost(self.cost, problem)
        units = np.ones(anchor.budget), np.ones(reference.budget)
        coupling = self.penalty.couple(*units, between(cost, anchor, reference))
        lam = _linear(problem.budget, anchor.budget, reference.budget)
        moved = Geodesic(anchor, reference, cost, coupling.plan, (1.0, 1.0))
        return reported(moved.solution(problem.budget, lam), coupling)


def _linear(budget: int, anchor_budget: int, reference_budget: int) -> float:
    """lam = (B - B_a) / (B_r - B_a) in [0, 1]; a jump above B_a where the two are equal."""
    if anchor_budget == reference_budget:
        return float(budget > anchor_budget)
    lam = (budget - anchor_budget) / (reference_budget - anchor_budget)
    return min(1.0, max(0.0, lam))
