"""Costs of spans whose skipped steps are forecast from two computed ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ForecastCosts:
    r"""What a span costs under the best two-term forecast, read off the Gram alone ("open loop").

    .. math::
        q(p, k, j) = g_j^2\, E \Big\| \sum_{t=k+1}^{j-1} h_t (\hat v_t - v_t) \Big\|^2,
        \qquad \hat v_t = a_t v_k + b_t v_p, \quad h_t = s_{t+1} - s_t

    with p the computed step before k and a_t, b_t by least squares with a ridge. Least squares is
    linear in its target, so the forecast of the sum z = sum_t h_t v_t is the sum of the forecasts,
    and every span needs one 2 x 2 system in <z, v_k>, <z, v_p>, <z, z> instead of one a skipped
    step.

    Args:
        gram: H[a, b] = E <v_a, v_b>, shape (N, N), symmetric.
        grid: s_0 .. s_N, shape (N + 1,).
        gains: g_0 .. g_N, growth of a deviation from step j to the end, shape (N + 1,); 1 if None.
        ridge: added to the diagonal of each system, relative to its mean; above 0.

    Raises:
        OtcacheError: if shapes disagree, a value is not finite, or the ridge is not positive.
    """

    gram: Array
    grid: Array
    gains: Array | None = None
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        check_run(self.gram, self.grid, self.ridge)
        if self.gains is not None:
            check_array("gains", self.gains, (len(self.gram) + 1,))

    def table(self) -> Array:
        """q[p, k, j] for p < k < j, and q[0, 0, j] for the first span, which has nothing before it.

        Returns:
            Shape (N, N, N + 1), >= 0, in units of x squared; ``inf`` where p, k, j are out of
            order.
        """
        n = len(self.gram)
        costs = np.full((n, n, n + 1), np.inf)
        costs[0, 0, 1:] = self._spans(0)[0]
        for k in range(1, n):
            costs[:k, k, k + 1 :] = self._spans(k)
        if self.gains is not None:
            # inf * 0 would be NaN, so only the spans that exist are weighted.
            finite = np.isfinite(costs)
            weighted = np.broadcast_to(self.gains**2, costs.shape)[finite]
            costs[finite] *= weighted
        return costs

    def _spans(self, k: int) -> Array:
        """q[p, k, k+1 .. N] for every p < k (for k = 0 one row without history)."""
        H, h = self.gram, np.diff(self.grid)[k + 1 :]
        zeros = np.zeros((len(H), 1))
        # <z, v_a> and <z, z> of the sums over t = k+1 .. j-1, for all j; the first sum is empty.
        with_v = np.concatenate([zeros, np.cumsum(H[:, k + 1 :] * h, axis=1)], axis=1)
        inner = np.cumsum(np.cumsum(H[k + 1 :, k + 1 :] * np.outer(h, h), axis=0), axis=1)
        with_z = np.concatenate([[0.0], np.diagonal(inner)])
        zk, zp, kk, kp, pp = with_v[k], with_v[:k], H[k, k], H[:k, k], H.diagonal()[:k]
        lam = self.ridge * (kk + pp) / 2
        if k == 0:  # nothing before it: a second term of zero, and the mean of one entry
            zp, kp, pp = np.zeros_like(with_v[:1]), np.zeros(1), np.zeros(1)
            lam = np.full(1, self.ridge * kk)
        return _residual(kk, kp[:, None], pp[:, None], lam[:, None], zk, zp, with_z)


def _residual(
    kk: float, kp: Array, pp: Array, lam: Array, zk: Array, zp: Array, zz: Array
) -> Array:
    """||z - a v_k - b v_p||^2 with (a, b) the ridge solution; rows p, columns j."""
    det = (kk + lam) * (pp + lam) - kp**2
    det = np.where(det > 0, det, 1.0)  # only outputs that are zero throughout: then a = b = 0
    a = ((pp + lam) * zk - kp * zp) / det
    b = ((kk + lam) * zp - kp * zk) / det
    square = a * a * kk + 2 * a * b * kp + b * b * pp
    return np.asarray(np.maximum(zz - 2 * (a * zk + b * zp) + square, 0.0))


def check_run(gram: Array, grid: Array, ridge: float) -> None:
    """Raise OtcacheError unless they are a Gram, its grid and a ridge above 0."""
    n = len(gram)
    check_array("gram", gram, (n, n))
    check_array("grid", grid, (n + 1,))
    if not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-9 * np.abs(gram).max()):
        raise OtcacheError("gram must be symmetric, got another matrix: is it E <v_a, v_b>?")
    check_ridge(ridge)


def check_ridge(ridge: float) -> None:
    """Raise OtcacheError unless it is above 0."""
    if not ridge > 0:
        raise OtcacheError(expected("ridge", ridge, "above 0", "1e-4 is a good value."))


def check_array(name: str, value: Array, shape: tuple[int, ...]) -> None:
    """Raise OtcacheError unless it has that shape, is not empty and all finite."""
    if value.shape != shape or not value.size:
        raise OtcacheError(expected(name, value.shape, f"of shape {shape}"))
    if not np.isfinite(value).all():
        raise OtcacheError(f"{name} holds NaN or infinity: record the runs again.")
