"""Span costs from mean velocities: MeanCache's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule, Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts
from otcache_core.errors import expected
from otcache_core.storage.recordings import slabs
from otcache_solvers.costs.lookback_costs import LookbackCosts, check_candidates

SLAB = 2**15  # half of core's: more arrays of this many elements live at once
Array = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class MeanVelocityCosts(SpanCosts):
    """C of every span, and the lookback that attains it.

    Args:
        table: E_h of every lookback; ``costs`` are the least of it.
    """

    table: LookbackCosts

    def applied(self, schedule: Schedule) -> Schedule:
        """The same steps, forecast by ``mean-velocity`` with the best lookback of each span.

        Raises:
            OtcacheError: if N differs.
        """
        return self.table.applied(schedule)


@final
@dataclass(frozen=True)
class MeanVelocity(CostModel):
    r"""How far the mean velocity of a span is from its forecast at the span's start.

    .. math:: C(i \to j) = \min_h E_h, \qquad
        E_h(i \to j) = E\, \Big| \frac{x_j - x_i}{s_j - s_i} - v_i - (s_j - s_i)\, J_h \Big|,
        \qquad J_h = \frac{x_i - x_r - (s_i - s_r)\, v_r}{(s_i - s_r)^2}

    the mean over elements, then samples, with r = max(i - h, 0). J_h = 0 at h = 1, at i = 0 and
    where s_i = s_r; a span over which s does not change costs 0. All is read off the recorded
    runs, so the price is 0. Times ``|s_j - s_i|`` it is the error of one step of
    ``mean-velocity-paper`` over the span on an Euler sampler. A schedule planned on these costs
    carries the best h of its spans by :meth:`MeanVelocityCosts.applied`.

    References:
        MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference
        (2026), https://arxiv.org/abs/2601.19961; docs/theory.md, section 9.2. The lookbacks 1 to 6 are
        those that the authors' released sampler knows, https://github.com/UnicomAI/MeanCache.

    Args:
        lookbacks: the candidates h, increasing whole numbers, 1 or more.

    Raises:
        OtcacheError: if the lookbacks are anything else.

    Examples:
        >>> run = Trajectory(np.array([1.0, 0.5, 0.0]), np.array([[0.0], [1.0], [3.0]]),
        ...                  np.array([[-2.0], [-4.0]]))
        >>> MeanVelocity().measure([run]).costs
        array([[0., 0., 1.],
               [0., 0., 0.]])
    """

    lookbacks: tuple[int, ...] = (1, 2, 3, 4, 5, 6)

    def __post_init__(self) -> None:
        check_candidates(self.lookbacks)

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> MeanVelocityCosts:
        """C of every span; see :class:`~otcache_core.contracts.CostModel`.

        Args:
            trajectories: recorded full runs, all of the same N.
            evaluator: not used.

        Raises:
            OtcacheError: as :meth:`lookback_costs`.
        """
        found = self.lookback_costs(trajectories)
        return MeanVelocityCosts(found.costs, 0, found.samples, found)

    def lookback_costs(self, trajectories: Sequence[Trajectory]) -> LookbackCosts:
        """E_h of every span, lookback and sample: mergeable, and tells the best h.

        Raises:
            OtcacheError: if there is no trajectory, or they differ in N.
        """
        if not trajectories:
            raise OtcacheError(
                "mean-velocity costs need a recorded full run, got none: record one first."
            )
        sizes = sorted({t.num_steps for t in trajectories})
        if len(sizes) > 1:
            raise OtcacheError(expected("num_steps", sizes, "one and the same for all runs"))
        tables = np.stack([_table(run, self.lookbacks) for run in trajectories])
        return LookbackCosts(self.lookbacks, tables)


def _table(run: Trajectory, lookbacks: tuple[int, ...]) -> Array:
    """E_h of one sample, shape (H, N, N + 1), in float64, a slab of elements at a time."""
    n, d = run.outputs.shape
    costs = np.zeros((len(lookbacks), n, n + 1))
    for slab in zip(slabs(run.states, SLAB), slabs(run.outputs, SLAB), strict=True):
        x, v = (part.astype(np.float64) for part in slab)
        for i in range(n - 1):
            _add_spans(costs[:, i], x, v, run.grid, i, lookbacks)
    return np.asarray(costs / d)


def _add_spans(
    costs: Array, x: Array, v: Array, s: Array, i: int, lookbacks: tuple[int, ...]
) -> None:
    """Add the absolute values of one slab to the spans that start at i; costs is (H, N + 1)."""
    far = np.arange(i + 2, len(s))
    far = far[s[far] != s[i]]
    length = (s[far] - s[i])[:, None]
    missed = (x[far] - x[i]) / length - v[i]
    reuse = np.abs(missed).sum(axis=1)
    for row, h in zip(costs, lookbacks, strict=True):
        r = max(i - h, 0)
        gap = s[i] - s[r]
        if i - r <= 1 or gap == 0.0:
            row[far] += reuse
            continue
        J = ((x[i] - x[r]) / gap - v[r]) / gap
        row[far] += np.abs(missed - length * J).sum(axis=1)
