"""Optimal couplings by linear programming: two independent programs for one problem."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_solvers.needs import library

Floats = NDArray[np.float64]
#: From mu, nu (equal sums) and C to the optimal plan.
Coupler = Callable[[Floats, Floats, Floats], Floats]

#: A plan's marginals must be met to this share of the mass.
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
        """The optimal plan.

        Raises:
            OtcacheError: if POT is not installed or reports that it did not converge.
        """
        ot = library("ot", "optimal transport by network simplex", "use backend=HiGHS()")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reported below, as an error
            # The simplex compares with absolute tolerances: hand it costs of order one.
            plan, log = ot.emd(
                mu, nu, cost / (cost.max() or 1.0), numItermax=self.max_iterations, log=True
            )
        advice = f"Use backend=HiGHS(), or raise `max_iterations` ({self.max_iterations})."
        return _checked(plan, mu, nu, log["warning"], advice)


@final
@dataclass(frozen=True)
class HiGHS:
    """scipy's HiGHS on the same program: slower, and independent of POT.

    References:
        Huangfu, Hall, Parallelizing the dual revised simplex method, 2018, https://highs.dev
    """

    def __call__(self, mu: Floats, nu: Floats, cost: Floats) -> Floats:
        """The optimal plan.

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
        plan = np.zeros_like(cost) if found.x is None else found.x.reshape(cost.shape)
        complaint = None if found.success else found.message
        return _checked(plan, mu, nu, complaint, "Use backend=NetworkSimplex().")


def _checked(plan: Floats, mu: Floats, nu: Floats, complaint: str | None, advice: str) -> Floats:
    """The plan without rounding noise, if its marginals are met."""
    off = np.abs(plan.sum(1) - mu).sum() + np.abs(plan.sum(0) - nu).sum()
    if complaint or not off <= RESIDUAL * mu.sum():
        raise OtcacheError(
            f"optimal transport did not converge: {complaint or 'no reason given'}; marginals are "
            f"off by {off:.1e} of {mu.sum():.3g}. {advice}"
        )
    return np.asarray(np.maximum(plan, 0.0), dtype=np.float64)
