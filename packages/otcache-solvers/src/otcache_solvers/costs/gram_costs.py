"""Span costs from the Gram of recorded outputs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import OtcacheError, Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts
from otcache_core.errors import expected
from otcache_solvers.costs.gram import Gram


@final
@dataclass(frozen=True)
class GramCosts(CostModel):
    r"""What the best multiple of the last output leaves of a span.

    .. math:: w(i \to j) = \min_a \big( E \| z - a\, v_i \|^2 \big)^{1/2}, \qquad
        z = \sum_{t=i+1}^{j-1} (s_{t+1} - s_t)\, v_t

    the mean over elements, then samples: where an Euler run lands, off the recorded state x_j, if the
    span's steps return the best scaled reuse (``fitted`` of memory 1) of one output for all samples.
    Of the N x N Gram of the outputs alone, so the price is 0 and shards merge as
    :class:`~otcache_solvers.costs.gram.Gram` does; what happens after step j is not seen. Costs of
    longer memory depend on the span before:
    :class:`~otcache_solvers.costs.forecast.ForecastCosts`.

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
        """Price every span; see :class:`~otcache_core.contracts.CostModel`.

        Args:
            trajectories: recorded full runs, all of the same N and grid.
            evaluator: not used.

        Raises:
            OtcacheError: if there is no trajectory, or they differ in N or grid.
        """
        gram = Gram.of(trajectories)
        if not all(np.array_equal(run.grid, trajectories[0].grid) for run in trajectories):
            raise OtcacheError(
                "recorded runs must share one grid, got several: record them all on one grid."
            )
        return self.of(gram, np.asarray(trajectories[0].grid, dtype=np.float64))

    def of(self, gram: Gram, grid: Array) -> SpanCosts:
        """The costs of a Gram, merged from shards for example.

        Args:
            gram: of the recorded outputs.
            grid: s_0 .. s_N, shape (N + 1,).

        Raises:
            OtcacheError: if the grid has another length.
        """
        n = gram.num_steps
        if grid.shape != (n + 1,):
            raise OtcacheError(expected("grid", grid.shape, f"of shape ({n + 1},)"))
        H, costs = gram.matrix, np.zeros((n, n + 1))
        for i in range(n - 1):
            costs[i, i + 2 :] = _left_over(H, np.diff(grid), i)
        return SpanCosts(costs, 0, gram.num_samples)


def _left_over(H: Array, steps: Array, i: int) -> Array:
    """w(i -> j) of j = i+2 .. N, by sums that grow with j."""
    h, later = steps[i + 1 :], H[i + 1 :, i + 1 :]
    zz = np.diagonal(np.cumsum(np.cumsum(later * np.outer(h, h), axis=0), axis=1))
    zv = np.cumsum(H[i, i + 1 :] * h)
    own = H[i, i] if H[i, i] > 0 else 1.0
    return np.asarray(np.sqrt(np.maximum(zz - zv**2 / own, 0.0)))
