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
    reported,
)


@final
@dataclass(frozen=True)
class Annealed:
    """epsilon from ``start`` down to ``end`` by ``factor`` a stage, relative to the largest cost.

    Raises:
        OtcacheError: if not 0 < end <= start, or the factor is not in (0, 1).
    """

    start: float = 1.0
    end: float = 1e-3
    factor: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start:
            raise OtcacheError(expected("Annealed.end", self.end, f"in (0, {self.start}]"))
        if not 0 < self.factor < 1:
            raise OtcacheError(expected("Annealed.factor", self.factor, "between 0 and 1"))

    def stages(self) -> list[float]:
        """Every epsilon, largest first."""
        found, epsilon = [], self.start
        while epsilon > self.end:
            found.append(epsilon)
            epsilon *= self.factor
        return [*found, self.end]


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
            (:func:`~otcache_solvers.transport.geodesic.ground_cost`).
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


def couple(
    mu: Floats,
    nu: Floats,
    cost: Floats,
    penalty: float,
    annealed: Annealed,
    *,
    tolerance: float,
    max_iterations: int,
) -> Coupling:
    r"""Least entropic transport cost with soft marginals, by alternating updates of f and g.

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
        annealed: the values of epsilon, as shares of the largest C.
        tolerance: residual at which an epsilon is done; the last one to this, the others to 1e-2.
        max_iterations: passes over all epsilons; the last epsilon gets one even if none is left.
    """
    largest = float(cost.max()) or 1.0
    epsilons = [share * largest for share in annealed.stages()]
    f, g = np.zeros(len(mu)), np.zeros(len(nu))
    log_mu, log_nu = np.log(mu), np.log(nu)
    iterations, residual, plan = 0, math.inf, np.outer(mu, nu)
    for epsilon in epsilons:
        damping = penalty / (penalty + epsilon)
        last = epsilon == epsilons[-1]
        target = tolerance if last else max(tolerance, 1e-2)
        while iterations < max_iterations or last:
            f = -damping * epsilon * _log_sum((g - cost) / epsilon + log_nu)
            g = -damping * epsilon * _log_sum((f[:, None] - cost).T / epsilon + log_mu)
            shift = _shift(f, g, mu, nu, penalty)
            f, g = f + shift, g - shift
            iterations += 1
            if iterations % 10 and iterations < max_iterations:
                continue
            plan = np.exp((f[:, None] + g - cost) / epsilon + log_mu[:, None] + log_nu)
            residual = _residual(plan, mu * np.exp(-f / penalty), nu * np.exp(-g / penalty))
            if residual <= target or iterations >= max_iterations:
                break
    return Coupling(plan, residual, iterations, epsilons[-1], residual <= tolerance)


def _log_sum(exponents: Floats) -> Floats:
    """log of the sum of exponentials over each row, without overflow."""
    largest = exponents.max(axis=1)
    return np.asarray(largest + np.log(np.exp(exponents - largest[:, None]).sum(axis=1)))


def _shift(f: Floats, g: Floats, mu: Floats, nu: Floats, penalty: float) -> float:
    """The s for which f + s and g - s are best: e^{-f/rho} and e^{-g/rho} then weigh the same."""
    rows = _log_sum((np.log(mu) - f / penalty)[None])[0]
    columns = _log_sum((np.log(nu) - g / penalty)[None])[0]
    return float(penalty / 2 * (rows - columns))


def _residual(plan: Floats, rows: Floats, columns: Floats) -> float:
    off = np.abs(plan.sum(1) - rows).sum() + np.abs(plan.sum(0) - columns).sum()
    return float(off / max(plan.sum(), np.finfo(float).tiny))


def check_effort(tolerance: float, max_iterations: int) -> None:
    """Check the two numbers that say when to stop.

    Raises:
        OtcacheError: if one is out of range.
    """
    if not 0 < tolerance < math.inf:
        raise OtcacheError(expected("tolerance", tolerance, "above 0 and finite"))
    if max_iterations < 1:
        raise OtcacheError(expected("max_iterations", max_iterations, "at least 1"))
