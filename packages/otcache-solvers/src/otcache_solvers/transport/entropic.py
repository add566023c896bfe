"""Entropic couplings with soft marginals, in the log domain."""

from __future__ import annotations

import math

import numpy as np

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_solvers.transport.annealed import Annealed
from otcache_solvers.transport.coupling import Coupling


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
