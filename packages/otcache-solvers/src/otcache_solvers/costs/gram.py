"""The Gram matrix of the recorded outputs, and span costs that need nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts
from otcache_core.errors import expected
from otcache_core.problem import PerSample
from otcache_core.storage.recordings import inner_products
from otcache_solvers.costs.samples import recorded_grid, recorded_steps
from otcache_solvers.needs import check_array


@dataclass(frozen=True, eq=False)
class Gram(PerSample):
    r"""Inner products of the recorded outputs, kept per sample.

    .. math:: H_{ab} = E \langle v_a, v_b \rangle

    the mean over elements, then samples: kilobytes, whatever the model's size.

    Args:
        per_sample: one N x N matrix a sample, shape (samples, N, N); units of v squared.

    Raises:
        OtcacheError: if the shape is wrong or a value is not finite.

    Examples:
        >>> shard = Gram(np.ones((1, 2, 2)))
        >>> shard.merge(Gram(np.zeros((3, 2, 2)))).matrix.tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """

    same = ("num_steps",)

    per_sample: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = self.per_sample.shape
        if len(shape) != 3 or shape[0] < 1 or shape[1] != shape[2]:
            raise OtcacheError(expected("Gram.per_sample", shape, "of shape (samples, N, N)"))
        if not np.isfinite(self.per_sample).all():
            raise OtcacheError("Gram.per_sample holds NaN or infinity: record the runs again.")

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Gram:
        """Compute the Gram of recorded runs, one at a time.

        Raises:
            OtcacheError: if there is none, or they differ in N.
        """
        recorded_steps(trajectories, "Gram matrices")
        return cls(np.stack([inner_products(t.outputs) for t in trajectories]))

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.per_sample[0])

    @property
    def matrix(self) -> NDArray[np.float64]:
        """H, shape (N, N)."""
        return self.mean


@final
@dataclass(frozen=True)
class GramCosts(CostModel):
    r"""Measure what the best multiple of the last output leaves of a span.

    .. math:: w(i \to j) = \min_a \big( E \| z - a\, v_i \|^2 \big)^{1/2}, \qquad
        z = \sum_{t=i+1}^{j-1} (s_{t+1} - s_t)\, v_t

    the mean over elements, then samples: where an Euler run lands, off the recorded state x_j, if the
    span's steps return the best scaled reuse (``fitted`` of memory 1) of one output for all samples.
    Of the N x N Gram of the outputs alone, so it costs no evaluation and shards merge as
    :class:`Gram` does; what happens after step j is not seen. Costs of longer memory depend on the
    span before: :class:`ForecastCosts`.

    References:
        docs/theory.md, section 7.2.

    Examples:
        >>> run = Trajectory(np.array([1.0, 0.5, 0.0]), np.zeros((3, 1)), np.array([[-2.0], [-4.0]]))
        >>> GramCosts().measure([run]).costs  # one element: the best multiple is exact
        array([[0., 0., 0.],
               [0., 0., 0.]])
    """

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        """Compute the cost of every span; see :class:`~otcache_core.contracts.CostModel`.

        Args:
            trajectories: recorded full runs, all of the same N and grid.
            evaluator: not used.

        Raises:
            OtcacheError: if there is no trajectory, or they differ in N or grid.
        """
        return self.of(Gram.of(trajectories), recorded_grid(trajectories))

    def of(self, gram: Gram, grid: Array) -> SpanCosts:
        """Compute the costs from a Gram, merged from shards for example.

        Args:
            gram: of the recorded outputs.
            grid: s_0 .. s_N, shape (N + 1,).

        Raises:
            OtcacheError: if the grid has another length.
        """
        n = gram.num_steps
        check_array("grid", grid, (n + 1,))
        H, costs = gram.matrix, np.zeros((n, n + 1))
        for i in range(n - 1):
            costs[i, i + 2 :] = _left_over(H, np.diff(grid), i)
        return SpanCosts(costs, 0, gram.samples)


def _left_over(H: Array, steps: Array, i: int) -> Array:
    """Compute w(i -> j) of j = i+2 .. N, by sums that grow with j."""
    h, later = steps[i + 1 :], H[i + 1 :, i + 1 :]
    zz = np.diagonal(np.cumsum(np.cumsum(later * np.outer(h, h), axis=0), axis=1))
    zv = np.cumsum(H[i, i + 1 :] * h)
    own = H[i, i] if H[i, i] > 0 else 1.0
    return np.asarray(np.sqrt(np.maximum(zz - zv**2 / own, 0.0)))


Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ForecastCosts:
    r"""Costs of spans under the best two-term forecast, from the Gram alone ("open loop").

    .. math::
        q(p, k, j) = g_j^2\, E \Big\| \sum_{t=k+1}^{j-1} h_t (\hat v_t - v_t) \Big\|^2,
        \qquad \hat v_t = a_t v_k + b_t v_p, \quad h_t = s_{t+1} - s_t

    with p the computed step before k and a_t, b_t by least squares with a ridge. Least squares is
    linear in its target, so the forecast of the sum z = sum_t h_t v_t is the sum of the forecasts,
    and every span needs one 2 x 2 system in <z, v_k>, <z, v_p>, <z, z> instead of one per skipped
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
        """Compute q[p, k, j] for p < k < j, and q[0, 0, j] for the first span, which has nothing before it.

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
        """Compute q[p, k, k+1 .. N] for every p < k (for k = 0 one row without history)."""
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
    """Compute ||z - a v_k - b v_p||^2 with (a, b) the ridge solution; rows p, columns j."""
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
