"""Optimal transport between two schedules on any ground cost, by linear programming."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.transport import coordinate
from otcache_solvers.needs import endpoints_of, library
from otcache_solvers.transport.geodesic import (
    Geodesic,
    GroundCost,
    between,
    check_ground_cost,
    ground_cost,
    needs_of,
)

Floats = NDArray[np.float64]
#: From mu, nu (equal sums) and C to the optimal coupling pi.
Coupler = Callable[[Floats, Floats, Floats], Floats]

#: The marginals of a coupling must be met to this share of the mass.
RESIDUAL = 1e-9


@final
@dataclass(frozen=True)
class NetworkSimplex:
    r"""POT's network simplex, ``ot.emd``.

    .. math:: \min_{\pi \ge 0} \sum_{a, b} \pi(a, b)\, C[a, b], \qquad
              \sum_b \pi(a, b) = \mu(a), \quad \sum_a \pi(a, b) = \nu(b)

    References:
        Bonneel, van de Panne, Paris, Heidrich, Displacement interpolation using Lagrangian mass
        transport, 2011; POT: Python Optimal Transport, https://pythonot.github.io

    Args:
        max_iterations: pivots, at least 1.
    """

    max_iterations: int = 1_000_000

    def __call__(self, mu: Floats, nu: Floats, cost: Floats) -> Floats:
        """Find the optimal coupling.

        Raises:
            OtcacheError: if POT is not installed or reports that it did not converge.
        """
        ot = library("ot", "optimal transport by network simplex", "use backend=HiGHS()")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reported below, as an error
            # The simplex compares with absolute tolerances: give it costs of order one.
            pi, log = ot.emd(
                mu, nu, cost / (cost.max() or 1.0), numItermax=self.max_iterations, log=True
            )
        advice = f"Use backend=HiGHS(), or raise `max_iterations` ({self.max_iterations})."
        return _checked(pi, mu, nu, log["warning"], advice)


@final
@dataclass(frozen=True)
class HiGHS:
    """scipy's HiGHS on the same program: slower, and independent of POT.

    References:
        Huangfu, Hall, Parallelizing the dual revised simplex method, 2018, https://highs.dev
    """

    def __call__(self, mu: Floats, nu: Floats, cost: Floats) -> Floats:
        """Find the optimal coupling.

        Raises:
            OtcacheError: if scipy is not installed or HiGHS reports no optimum.
        """
        user = "optimal transport by HiGHS"
        sparse, linprog = library("scipy.sparse", user), library("scipy.optimize", user).linprog
        rows, columns = cost.shape
        marginals = sparse.vstack(
            [
                sparse.kron(sparse.eye_array(rows), np.ones((1, columns))),
                sparse.kron(np.ones((1, rows)), sparse.eye_array(columns)),
            ]
        )
        scaled = cost.ravel() / (cost.max() or 1.0)
        found = linprog(scaled, A_eq=marginals.tocsr(), b_eq=np.concatenate([mu, nu]))
        pi = np.zeros_like(cost) if found.x is None else found.x.reshape(cost.shape)
        complaint = None if found.success else found.message
        return _checked(pi, mu, nu, complaint, "Use backend=NetworkSimplex().")


def _checked(pi: Floats, mu: Floats, nu: Floats, complaint: str | None, advice: str) -> Floats:
    """Return the coupling without rounding noise, if its marginals are met."""
    off = np.abs(pi.sum(1) - mu).sum() + np.abs(pi.sum(0) - nu).sum()
    if complaint or not off <= RESIDUAL * mu.sum():
        raise OtcacheError(
            f"optimal transport did not converge: {complaint or 'no reason given'}; marginals are "
            f"off by {off:.1e} of {mu.sum():.3g}. {advice}"
        )
    return np.asarray(np.maximum(pi, 0.0), dtype=np.float64)


@final
@dataclass(frozen=True, eq=False)
class ExactLP(ScheduleSolver):
    r"""Read the schedule off the geodesic of a general ground cost between steps.

    A reference implementation: on its default ground cost the schedules are those of ``quantile``,
    whose closed form needs no linear program.

    .. math:: \min_{\pi \ge 0} \sum_{a \in S_a,\, b \in S_r} \pi(a, b)\, C[a, b], \qquad
              \sum_b \pi(a, b) = \frac{1}{B_a}, \quad \sum_a \pi(a, b) = \frac{1}{B_r}

    then the pair (a, b) goes to argmin_z (1-lam) C[a, z] + lam C[z, b] with
    lam = (1/B_a - 1/B) / (1/B_a - 1/B_r), clamped to [0, 1], and the quantile function of what lies
    there is read at (m-1)/B and rounded to B distinct steps
    (:class:`~otcache_solvers.transport.geodesic.Geodesic`).

    Properties: at their own budgets anchor and reference come back, exactly, weights included. For a
    strictly convex cost of a - b the coupling is that of the quantiles; with the squared distance
    the schedule is the ``quantile`` solver's at every budget. For a merely convex one (a - b in
    absolute value) the optimum has the same value but need not be the same coupling, and z jumps
    from a to b at lam = 1/2: such a cost says how far, not along which path.

    References:
        Villani, Topics in Optimal Transportation, 2003, chapters 2 and 5; McCann, A convexity
        principle for interacting gases, 1997, for displacement interpolation. docs/theory.md,
        section 5.4.

    Args:
        cost: C, shape (N, N), or a name: ``step``, ``noise`` or ``trajectory``
            (:func:`~otcache_solvers.transport.geodesic.ground_cost`).
        backend: solves the program, :class:`NetworkSimplex` (POT) or :class:`HiGHS` (scipy).

    Raises:
        OtcacheError: if there is no ground cost of that name.

    Examples:
        >>> from otcache_core import Schedule
        >>> ends = [Schedule(num_steps=12, computed=c) for c in ((0, 6), (0, 1, 2, 4, 6, 8))]
        >>> problem = ScheduleProblem(12, 3, anchor=ends[0], reference=ends[1])
        >>> ExactLP().solve(problem).schedule.computed
        (0, 3, 7)
    """

    cost: GroundCost = "step"
    backend: Coupler = field(default_factory=NetworkSimplex)

    def __post_init__(self) -> None:
        check_ground_cost(self.cost)

    @property
    def abilities(self) -> Abilities:
        """What is exact is the rounding to steps; the needs depend on the ground cost."""
        return Abilities(needs_of(self.cost), exact=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Interpolate; the objective is the distance to the quantile function.

        Raises:
            OtcacheError: if the problem has no anchor or no reference, or not what the ground cost
                needs, that does not fit, or the linear program fails.
        """
        anchor, reference = endpoints_of(problem, "exact-lp")
        cost = ground_cost(self.cost, problem)
        mu, nu = (np.full(s.budget, 1 / s.budget) for s in (anchor, reference))
        pi = self.backend(mu, nu, between(cost, anchor, reference))
        lam = coordinate(problem.budget, anchor.budget, reference.budget)
        masses = (1 / anchor.budget, 1 / reference.budget)
        return Geodesic(anchor, reference, cost, pi, masses).solution(problem.budget, lam)
