"""Transport between two schedules in which computation may also be created or destroyed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_solvers.needs import endpoints_of
from otcache_solvers.transport.exact_lp import Coupler, NetworkSimplex
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
from otcache_solvers.transport.sinkhorn import EpsilonSchedule, check_effort, log_sum

Floats = NDArray[np.float64]


class Penalty(ABC):
    """How far the marginals of a coupling may be from mu and nu, and at what cost.

    Attributes:
        exact: whether every coupling is optimal; else an iteration may end before it has converged.
    """

    exact: ClassVar[bool] = False

    @abstractmethod
    def couple(self, mu: Floats, nu: Floats, cost: Floats) -> Coupling:
        """Find the best coupling; mu and nu (above 0) may differ in their sums and are not changed."""


@final
@dataclass(frozen=True)
class TotalVariation(Penalty):
    r"""Partial transport: a unit is moved, or it is dropped and another one made.

    .. math:: \min_{\pi \ge 0} \langle C, \pi \rangle + \rho\, |\mu - \pi 1|_1
              + \rho\, |\nu - \pi^T 1|_1, \qquad \pi 1 \le \mu, \quad \pi^T 1 \le \nu

    exactly, as a balanced program with one more place that takes and gives anything for rho.
    Nothing moves where C exceeds 2 rho; if no C does, min(B_a, B_r) is moved, each unit whole.

    References:
        Figalli, The optimal partial transport problem, 2010.

    Args:
        weight: rho, in units of C; above 0. The default cost is below 1, so 1 moves all it can.
        backend: solves the program.

    Raises:
        OtcacheError: if the weight is out of range.
    """

    exact: ClassVar[bool] = True

    weight: float = 1.0
    backend: Coupler = field(default_factory=NetworkSimplex)

    def __post_init__(self) -> None:
        _check_weight("TotalVariation.weight", self.weight)

    def couple(self, mu: Floats, nu: Floats, cost: Floats) -> Coupling:
        """Find the optimal coupling; see :meth:`Penalty.couple`."""
        extended = np.pad(cost, ((0, 1), (0, 1)), constant_values=self.weight)
        extended[-1, -1] = 0.0
        pi = self.backend(np.append(mu, nu.sum()), np.append(nu, mu.sum()), extended)
        return Coupling(pi[:-1, :-1], 0.0, 0, 0.0, True)


@final
@dataclass(frozen=True)
class KullbackLeibler(Penalty):
    r"""Soft marginals: mass thins out or thickens on its way.

    .. math:: \min_{\pi \ge 0} \langle C, \pi \rangle + \rho\, KL(\pi 1 \,|\, \mu)
              + \rho\, KL(\pi^T 1 \,|\, \nu) + \epsilon\, KL(\pi \,|\, \mu \otimes \nu), \qquad
              \log \frac{\pi}{\mu \otimes \nu} = \frac{f \oplus g - C}{\epsilon}

    At the optimum pi 1 = mu e^{-f/rho} and pi' 1 = nu e^{-g/rho}; the residual is what both lack
    together, in absolute value, as a share of the mass. One shift of f against g after each pass
    puts the total mass right, which otherwise creeps there at the rate (rho / (rho + epsilon))^2.
    As rho grows the transported mass tends to the geometric mean sqrt(B_a B_r). The iteration is
    slow where rho is far above the last epsilon and steps hardly exchange mass at it.

    References:
        Liero, Mielke, Savare, Optimal entropy-transport problems, 2018; Chizat, Peyre, Schmitzer,
        Vialard, Scaling algorithms for unbalanced optimal transport problems, 2018; Sejourne, Vialard,
        Peyre, Faster unbalanced optimal transport: translation invariant Sinkhorn and 1-D Frank-Wolfe,
        2022, for the shift.

    Args:
        weight: rho, in units of C; above 0.
        epsilon: how epsilon falls, in shares of the largest C between the two schedules.
        tolerance: residual at which the last epsilon is done, above 0; the others are at 1e-2.
        max_iterations: passes over all values of epsilon, at least 1; the last epsilon gets one even if
            none is left.

    Raises:
        OtcacheError: if a value is out of range.
    """

    weight: float = 1.0
    epsilon: EpsilonSchedule = field(default_factory=EpsilonSchedule)
    tolerance: float = 1e-5
    max_iterations: int = 20_000

    def __post_init__(self) -> None:
        _check_weight("KullbackLeibler.weight", self.weight)
        check_effort(self)

    def couple(self, mu: Floats, nu: Floats, cost: Floats) -> Coupling:
        """Find the optimal coupling, by alternating updates of f and g; see :meth:`Penalty.couple`."""
        rho, largest = self.weight, float(cost.max()) or 1.0
        stages = [share * largest for share in self.epsilon.stages()]
        f, g = np.zeros(len(mu)), np.zeros(len(nu))
        log_mu, log_nu = np.log(mu), np.log(nu)
        iterations, residual, pi = 0, math.inf, np.outer(mu, nu)
        for epsilon in stages:
            damping = rho / (rho + epsilon)
            last = epsilon == stages[-1]
            target = self.tolerance if last else max(self.tolerance, 1e-2)
            while iterations < self.max_iterations or last:
                f = -damping * epsilon * log_sum((g - cost) / epsilon + log_nu)
                g = -damping * epsilon * log_sum((f[:, None] - cost).T / epsilon + log_mu)
                shift = _shift(f, g, mu, nu, rho)
                f, g = f + shift, g - shift
                iterations += 1
                if iterations % 10 and iterations < self.max_iterations:
                    continue
                pi = np.exp((f[:, None] + g - cost) / epsilon + log_mu[:, None] + log_nu)
                residual = _residual(pi, mu * np.exp(-f / rho), nu * np.exp(-g / rho))
                if residual <= target or iterations >= self.max_iterations:
                    break
        return Coupling(pi, residual, iterations, stages[-1], residual <= self.tolerance)


def _shift(f: Floats, g: Floats, mu: Floats, nu: Floats, penalty: float) -> float:
    """Compute the s for which f + s and g - s are best: e^{-f/rho} and e^{-g/rho} have one sum."""
    rows = log_sum((np.log(mu) - f / penalty)[None])[0]
    columns = log_sum((np.log(nu) - g / penalty)[None])[0]
    return float(penalty / 2 * (rows - columns))


def _residual(pi: Floats, rows: Floats, columns: Floats) -> float:
    off = np.abs(pi.sum(1) - rows).sum() + np.abs(pi.sum(0) - columns).sum()
    return float(off / max(pi.sum(), np.finfo(float).tiny))


def _check_weight(what: str, weight: float) -> None:
    if not 0 < weight < math.inf:
        advice = "use ExactLP or Sinkhorn for transport without creation."
        raise OtcacheError(expected(what, weight, "above 0 and finite", advice))


@final
@dataclass(frozen=True, eq=False)
class Unbalanced(ScheduleSolver):
    r"""Move units of mass, one per computed step, or make and drop them at a cost.

    A reference implementation: with fitted forecasts its schedules are seldom better, and often
    worse, than those of ``quantile`` (docs/solvers.md).

    .. math:: \min_{\pi \ge 0} \langle C, \pi \rangle + \rho D(\pi 1 \,|\, \mu)
              + \rho D(\pi^T 1 \,|\, \nu), \qquad \mu = \sum_{a \in S_a} \delta_a, \quad
              \nu = \sum_{b \in S_r} \delta_b

    The measure in between (:class:`~otcache_solvers.transport.geodesic.Geodesic`) has the mass
    (1-lam) B_a + lam B_r, so here lam = (B - B_a) / (B_r - B_a), clamped to [0, 1]: linear in B. It
    is read at every whole unit and rounded to B distinct steps. Mass that both schedules have at one
    step stays there and the rest comes and goes, where balanced transport thins the reference
    everywhere at once; since a unit is spread over the span it serves, a step that both
    schedules compute may still be rounded to a neighbour in between.

    Properties: at their own budgets anchor and reference come back, exactly, weights included. For equal
    budgets it tends to balanced transport as the penalty grows.

    References:
        docs/theory.md, section 5.5; those of the penalties.

    Args:
        penalty: D and rho, :class:`TotalVariation` or :class:`KullbackLeibler`.
        cost: C, shape (N, N), or a name: ``step``, ``noise`` or ``trajectory``
            (:func:`~otcache_solvers.transport.geodesic.ground_cost`).

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
        """Interpolate; the objective is the distance to the quantile function.

        Raises:
            OtcacheError: if the problem has no anchor or no reference, or not what the ground cost
                needs, that does not fit, or a linear program fails.
        """
        anchor, reference = endpoints_of(problem, "unbalanced")
        cost = ground_cost(self.cost, problem)
        units = np.ones(anchor.budget), np.ones(reference.budget)
        coupling = self.penalty.couple(*units, between(cost, anchor, reference))
        lam = _linear(problem.budget, anchor.budget, reference.budget)
        moved = Geodesic(anchor, reference, cost, coupling.pi, (1.0, 1.0))
        return with_convergence(moved.solution(problem.budget, lam), coupling)


def _linear(budget: int, anchor_budget: int, reference_budget: int) -> float:
    """Compute lam = (B - B_a) / (B_r - B_a) in [0, 1]; a jump above B_a if the two are equal."""
    if anchor_budget == reference_budget:
        return float(budget > anchor_budget)
    lam = (budget - anchor_budget) / (reference_budget - anchor_budget)
    return min(1.0, max(0.0, lam))
