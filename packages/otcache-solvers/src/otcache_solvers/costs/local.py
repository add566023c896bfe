"""Span costs read off the recorded runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts
from otcache_core.errors import expected
from otcache_core.storage.recordings import slabs
from otcache_solvers.costs.sample_costs import SampleCosts


@final
@dataclass(frozen=True)
class Local(CostModel):
    r"""How far one Euler step over the span lands from the recorded state.

    .. math:: w(i \to j) = E\, | x_i + (s_j - s_i)\, v_i - x_j |

    the mean over elements, then samples: the size of the local displacement under output reuse.
    Nothing is run, so the price is 0; what happens to the deviation after step j is not seen. For a
    sampler that is not a one-step Euler rule in its output the formula is only an indication.

    References:
        docs/theory.md, section 6.1.

    Examples:
        >>> run = Trajectory(np.array([1.0, 0.5, 0.0]), np.array([[0.0], [1.0], [3.0]]),
        ...                  np.array([[-2.0], [-4.0]]))
        >>> Local().measure([run]).costs
        array([[0., 0., 1.],
               [0., 0., 0.]])
    """

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        """Price every span; see :class:`~otcache_core.contracts.CostModel`.

        Args:
            trajectories: recorded full runs, all of the same N.
            evaluator: not used.

        Raises:
            OtcacheError: as :meth:`sample_costs`.
        """
        return self.sample_costs(trajectories).span_costs()

    def sample_costs(self, trajectories: Sequence[Trajectory]) -> SampleCosts:
        """The costs of each sample, which shards can merge.

        Raises:
            OtcacheError: if there is no trajectory, or they differ in N.
        """
        if not trajectories:
            raise OtcacheError("local costs need a recorded full run, got none: record one first.")
        sizes = sorted({t.num_steps for t in trajectories})
        if len(sizes) > 1:
            raise OtcacheError(expected("num_steps", sizes, "one and the same for all runs"))
        return SampleCosts("local", np.stack([_table(t) for t in trajectories]))


def _table(run: Trajectory) -> NDArray[np.float64]:
    """w of one sample, shape (N, N + 1), in float64, a slab of elements at a time."""
    n, d = run.outputs.shape
    costs = np.zeros((n, n + 1))
    for slab in zip(slabs(run.states), slabs(run.outputs), strict=True):
        x, v = (part.astype(np.float64) for part in slab)
        for i in range(n - 1):
            far = np.arange(i + 2, n + 1)
            landed = x[i] + np.outer(run.grid[far] - run.grid[i], v[i])
            costs[i, far] += np.abs(landed - x[far]).sum(axis=1)
    return np.asarray(costs / d)
