"""Entropic optimal transport between two schedules, in the log domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.transport import coordinate
from otcache_solvers.needs import check_least, endpoints_of
from otcache_solvers.transport.geodesic import (
    Coupling,
    Geodesic,
    GroundCost,
    between,
    check_ground_cost,
    ground_cost,
    needs_of,
    with_convergence,
)

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True)
class EpsilonSchedule:
    """Epsilons of entropic transport: from ``start`` down to ``end`` by ``factor`` a stage.

    They are relative to the largest cost.

    Raises:
        OtcacheError: if not 0 < end <= start, or the factor is not in (0, 1).
    """

    start: float = 1.0
    end: float = 1e-3
    factor: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start:
            raise OtcacheError(expected("EpsilonSchedule.end", self.end, f"in (0, {self.start}]"))
        if not 0 < self.factor < 1:
            raise OtcacheError(expected("EpsilonSchedule.factor", self.factor, "between 0 and 1"))

    def stages(self) -> list[float]:
        """List every epsilon, largest first."""
        found, epsilon = [], self.start
        while epsilon > self.end:
            found.append(epsilon)
            epsilon *= self.factor
        return [*found, self.end]


@final
@dataclass(frozen=True, eq=False)
class Sinkhorn(ScheduleSolver):
    r"""Do as :class:`~otcache_solvers.transport.exact_lp.ExactLP`, with a coupling blurred by entropy.

    A reference implementation: as the entropy falls it tends to that solver's coupling.

    .. math:: \min_{\pi \ge 0} \sum \pi C + \epsilon \sum \pi \log \pi
        \quad \text{with marginals } \tfrac{1}{B_a}, \tfrac{1}{B_r}, \qquad
        \pi = e^{(f_a + g_b - C_{ab}) / \epsilon}

    by alternating updates of f and g in the log domain, each epsilon of the schedule starting from
    the last one's potentials. It tends to the linear program's optimum as epsilon falls. Converged
    means that the marginals are met to ``tolerance`` in total variation at the last epsilon;
    ``stats`` say what was reached, and a run that was stopped before, at any epsilon, says
    ``Result.BUDGET_SPENT``.

    References:
        Cuturi, Sinkhorn Distances, 2013; Schmitzer, Stabilized Sparse Scaling Algorithms for Entropy
        Regularized Transport Problems, 2019, for the epsilon schedule.

    Args:
        cost: C, shape (N, N), or a name: ``step``, ``noise`` or ``trajectory``
            (:func:`~otcache_solvers.transport.geodesic.ground_cost`).
        epsilon: how it falls, in units of the largest C between the two schedules.
        tolerance: sum of |marginal errors| at which a stage ends, above 0.
        max_iterations: pairs of updates in all stages together.

    Raises:
        OtcacheError: if a number is out of range, or there is no ground cost of that name.
    """

    cost: GroundCost = "step"
    epsilon: EpsilonSchedule = field(default_factory=EpsilonSchedule)
    tolerance: float = 1e-8
    max_iterations: int = 20_000

    def __post_init__(self) -> None:
        check_ground_cost(self.cost)
        check_effort(self)

    @property
    def abilities(self) -> Abilities:
        """The needs depend on the ground cost."""
        return Abilities(needs_of(self.cost), all_budgets=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Interpolate; the objective is the distance to the quantile function.

        Raises:
            OtcacheError: if the problem has no anchor or no reference, or not what the ground cost
                needs, or that does not fit.
        """
        return self._solutions(problem, [problem.budget])[0]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """Interpolate at the budgets 1 .. B, from one coupling.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        return self._solutions(problem, range(1, problem.budget + 1))

    def _solutions(self, problem: ScheduleProblem, budgets: Sequence[int]) -> list[Solution]:
        anchor, reference = endpoints_of(problem, "sinkhorn")
        cost = ground_cost(self.cost, problem)
        coupling = self.couple(between(cost, anchor, reference))
        masses = (1 / anchor.budget, 1 / reference.budget)
        found = Geodesic(anchor, reference, cost, coupling.pi, masses)
        places = [coordinate(b, anchor.budget, reference.budget) for b in budgets]
        made = [found.solution(b, lam) for b, lam in zip(budgets, places, strict=True)]
        return [with_convergence(solution, coupling) for solution in made]

    def couple(self, cost: Floats) -> Coupling:
        """Couple two uniform measures; epsilon is in units of the largest cost.

        Args:
            cost: C between the points of both, shape (B_a, B_r).
        """
        rows, columns = cost.shape
        log_mu, log_nu = -np.log(rows), -np.log(columns)
        scaled = cost / (cost.max() or 1.0)
        spent, residual, reached = 0, np.inf, self.epsilon.start
        f, g, pi = np.zeros(rows), np.zeros(columns), np.full_like(scaled, 1.0 / scaled.size)
        for epsilon in self.epsilon.stages():
            while spent < self.max_iterations:
                spent, reached = spent + 1, epsilon
                f = epsilon * (log_mu - log_sum((g - scaled) / epsilon))
                g = epsilon * (log_nu - log_sum((f[:, None] - scaled) / epsilon, axis=0))
                pi = np.exp((f[:, None] + g - scaled) / epsilon)
                residual = float(np.abs(pi.sum(axis=1) - 1 / rows).sum())
                if residual <= self.tolerance:
                    break
        converged = residual <= self.tolerance and reached == self.epsilon.end
        return Coupling(pi, residual, spent, reached, converged)


def log_sum(x: Floats, axis: int = 1) -> Floats:
    """Compute the log of the sum of exponentials over each row, or column, without overflow."""
    top = x.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis))


def check_effort(owner: Any) -> None:
    """Raise OtcacheError if one of the two numbers that say when to stop is out of range."""
    if not 0 < owner.tolerance < math.inf:
        what = f"{type(owner).__name__}.tolerance"
        raise OtcacheError(expected(what, owner.tolerance, "above 0 and finite"))
    check_least(owner, max_iterations=1)
