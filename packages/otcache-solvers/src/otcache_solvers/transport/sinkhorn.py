"""Entropic optimal transport between two schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.transport import coordinate
from otcache_solvers.needs import endpoints_of
from otcache_solvers.transport.annealed import Annealed
from otcache_solvers.transport.base import Geodesic
from otcache_solvers.transport.coupling import Coupling, reported
from otcache_solvers.transport.ground_cost import (
    GroundCost,
    between,
    check_ground_cost,
    ground_cost,
    needs_of,
)

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Sinkhorn(ScheduleSolver):
    r"""As :class:`~otcache_solvers.transport.exact_lp.ExactLP`, with a coupling blurred by entropy.

    A reference implementation: as the entropy falls it tends to that solver's coupling.

    .. math:: \min_{\pi \ge 0} \sum \pi C + \epsilon \sum \pi \log \pi
        \quad \text{with marginals } \tfrac{1}{B_a}, \tfrac{1}{B_r}, \qquad
        \pi = e^{(f_a + g_b - C_{ab}) / \epsilon}

    by alternating updates of f and g in the log domain, each epsilon of the annealing starting from
    the last one's potentials. It tends to the linear program's optimum as epsilon falls. Converged
    means that the marginals are met to ``tolerance`` in total variation at the last epsilon;
    ``stats`` say what was reached, and a run that was stopped before, wherever in the annealing,
    says ``Result.BUDGET_SPENT``.

    References:
        Cuturi, Sinkhorn Distances, 2013; Schmitzer, Stabilized Sparse Scaling Algorithms for Entropy
        Regularized Transport Problems, 2019, for the annealing.

    Args:
        cost: C, shape (N, N), or a name: ``step``, ``noise`` or ``trajectory``
            (:func:`~otcache_solvers.transport.ground_cost.ground_cost`).
        epsilon: the annealing, in units of the largest C between the two schedules.
        tolerance: sum of |marginal errors| at which a stage ends, above 0.
        max_iterations: pairs of updates in all stages together.

    Raises:
        OtcacheError: if a number is out of range, or there is no ground cost of that name.
    """

    cost: GroundCost = "step"
    epsilon: Annealed = field(default_factory=Annealed)
    tolerance: float = 1e-8
    max_iterations: int = 20_000

    def __post_init__(self) -> None:
        check_ground_cost(self.cost)
        if not self.tolerance > 0:
            raise OtcacheError(expected("Sinkhorn.tolerance", self.tolerance, "above 0"))
        if self.max_iterations < 1:
            raise OtcacheError(
                expected("Sinkhorn.max_iterations", self.max_iterations, "at least 1")
            )

    @property
    def abilities(self) -> Abilities:
        """The needs depend on the ground cost."""
        return Abilities(needs_of(self.cost), all_budgets=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """The interpolated schedule; the objective is its distance to the quantile function.

        Raises:
            OtcacheError: if the problem has no anchor or no reference, or not what the ground cost
                needs, or that does not fit.
        """
        return self._solutions(problem, [problem.budget])[0]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """The interpolated schedules of the budgets 1 .. B, from one coupling.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        return self._solutions(problem, range(1, problem.budget + 1))

    def _solutions(self, problem: ScheduleProblem, budgets: Sequence[int]) -> list[Solution]:
        anchor, reference = endpoints_of(problem, "sinkhorn")
        cost = ground_cost(self.cost, problem)
        coupling = self.couple(between(cost, anchor, reference))
        masses = (1 / anchor.budget, 1 / reference.budget)
        found = Geodesic(anchor, reference, cost, coupling.plan, masses)
        places = [coordinate(b, anchor.budget, reference.budget) for b in budgets]
        made = [found.solution(b, lam) for b, lam in zip(budgets, places, strict=True)]
        return [reported(solution, coupling) for solution in made]

    def couple(self, cost: Floats) -> Coupling:
        """The coupling of two uniform measures; epsilon is in units of the largest cost.

        Args:
            cost: C between the points of both, shape (B_a, B_r).
        """
        rows, columns = cost.shape
        log_mu, log_nu = -np.log(rows), -np.log(columns)
        scaled = cost / (cost.max() or 1.0)
        f, g = np.zeros(rows), np.zeros(columns)
        spent, residual, reached = 0, np.inf, self.epsilon.start
        plan = np.full_like(scaled, 1.0 / scaled.size)
        for epsilon in self.epsilon.stages():
            while spent < self.max_iterations:
                spent, reached = spent + 1, epsilon
                f = epsilon * (log_mu - _log_sum_exp((g - scaled) / epsilon, axis=1))
                g = epsilon * (log_nu - _log_sum_exp((f[:, None] - scaled) / epsilon, axis=0))
                plan = np.exp((f[:, None] + g - scaled) / epsilon)
                residual = float(np.abs(plan.sum(axis=1) - 1 / rows).sum())
                if residual <= self.tolerance:
                    break
        converged = residual <= self.tolerance and reached == self.epsilon.end
        return Coupling(plan, residual, spent, reached, converged)


def _log_sum_exp(x: Floats, axis: int) -> Floats:
    top = x.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis))
