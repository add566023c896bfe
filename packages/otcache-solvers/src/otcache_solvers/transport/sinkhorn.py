"""Entropic optimal transport in the log domain, with hard and with soft marginals."""

from __future__ import annotations

import math
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
        check_effort("Sinkhorn", self.tolerance, self.max_iterations)

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
                f = epsilon * (log_mu - _log_sum((g - scaled) / epsilon))
                g = epsilon * (log_nu - _log_sum((f[:, None] - scaled) / epsilon, axis=0))
                pi = np.exp((f[:, None] + g - scaled) / epsilon)
                residual = float(np.abs(pi.sum(axis=1) - 1 / rows).sum())
                if residual <= self.tolerance:
                    break
        converged = residual <= self.tolerance and reached == self.epsilon.end
        return Coupling(pi, residual, spent, reached, converged)


def soft_coupling(
    mu: Floats,
    nu: Floats,
    cost: Floats,
    penalty: float,
    epsilons: EpsilonSchedule,
    *,
    tolerance: float,
    max_iterations: int,
) -> Coupling:
    r"""Minimise entropic transport cost with soft marginals, by alternating updates of f and g.

    .. math:: \min_{\pi \ge 0} \langle C, \pi \rangle
        + \rho\, KL(\pi 1 \,|\, \mu) + \rho\, KL(\pi^T 1 \,|\, \nu)
        + \epsilon\, KL(\pi \,|\, \mu \otimes \nu), \qquad
        \log \frac{\pi}{\mu \otimes \nu} = \frac{f \oplus g - C}{\epsilon}

    At the optimum pi 1 = mu e^{-f/rho} and pi' 1 = nu e^{-g/rho}; the residual is what both lack
    together, in absolute value, as a share of the mass. One shift of f against g after each pass
    puts the total mass right, which otherwise creeps there at the rate (rho / (rho + epsilon))^2.

    References:
        Chizat, Peyre, Schmitzer, Vialard, Scaling algorithms for unbalanced optimal transport
        problems, 2018. Sejourne, Vialard, Peyre, Faster unbalanced optimal transport: translation
        invariant Sinkhorn and 1-D Frank-Wolfe, 2022.

    Args:
        mu: masses of the rows, above 0.
        nu: masses of the columns, above 0; their sum may differ.
        cost: C, at least 0.
        penalty: rho, in units of C; above 0 and finite.
        epsilons: as shares of the largest C.
        tolerance: residual at which an epsilon is done; the last one to this, the others to 1e-2.
        max_iterations: passes over all epsilons; the last epsilon gets one even if none is left.
    """
    largest = float(cost.max()) or 1.0
    stages = [share * largest for share in epsilons.stages()]
    f, g = np.zeros(len(mu)), np.zeros(len(nu))
    log_mu, log_nu = np.log(mu), np.log(nu)
    iterations, residual, pi = 0, math.inf, np.outer(mu, nu)
    for epsilon in stages:
        damping = penalty / (penalty + epsilon)
        last = epsilon == stages[-1]
        target = tolerance if last else max(tolerance, 1e-2)
        while iterations < max_iterations or last:
            f = -damping * epsilon * _log_sum((g - cost) / epsilon + log_nu)
            g = -damping * epsilon * _log_sum((f[:, None] - cost).T / epsilon + log_mu)
            shift = _shift(f, g, mu, nu, penalty)
            f, g = f + shift, g - shift
            iterations += 1
            if iterations % 10 and iterations < max_iterations:
                continue
            pi = np.exp((f[:, None] + g - cost) / epsilon + log_mu[:, None] + log_nu)
            residual = _residual(pi, mu * np.exp(-f / penalty), nu * np.exp(-g / penalty))
            if residual <= target or iterations >= max_iterations:
                break
    return Coupling(pi, residual, iterations, stages[-1], residual <= tolerance)


def _log_sum(x: Floats, axis: int = 1) -> Floats:
    """Compute the log of the sum of exponentials over each row, or column, without overflow."""
    top = x.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis))


def _shift(f: Floats, g: Floats, mu: Floats, nu: Floats, penalty: float) -> float:
    """Compute the s for which f + s and g - s are best: e^{-f/rho} and e^{-g/rho} have one sum."""
    rows = _log_sum((np.log(mu) - f / penalty)[None])[0]
    columns = _log_sum((np.log(nu) - g / penalty)[None])[0]
    return float(penalty / 2 * (rows - columns))


def _residual(pi: Floats, rows: Floats, columns: Floats) -> float:
    off = np.abs(pi.sum(1) - rows).sum() + np.abs(pi.sum(0) - columns).sum()
    return float(off / max(pi.sum(), np.finfo(float).tiny))


def check_effort(owner: str, tolerance: float, max_iterations: int) -> None:
    """Raise OtcacheError if one of the two numbers that say when to stop is out of range."""
    if not 0 < tolerance < math.inf:
        raise OtcacheError(expected(f"{owner}.tolerance", tolerance, "above 0 and finite"))
    if max_iterations < 1:
        raise OtcacheError(expected(f"{owner}.max_iterations", max_iterations, "at least 1"))
