"""Span costs from mean velocities, with the best lookback of each span: MeanCache's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule, Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts
from otcache_core.errors import expected
from otcache_core.problem import PerSample
from otcache_core.storage.recordings import slabs
from otcache_solvers.costs.samples import Array, recorded_steps

SLAB = 2**15  # half of core's: more arrays of this many elements live at once


@dataclass(frozen=True, eq=False)
class LookbackCosts(PerSample):
    r"""E_h(i -> j) of every span and candidate h, kept per sample.

    .. math:: C(i \to j) = \min_h E_h(i \to j), \qquad h^*(i \to j) = \arg\min_h E_h(i \to j)

    with E_h the mean over samples, and the smallest of equally good h.

    Args:
        candidates: the lookbacks h, increasing whole numbers, 1 or more; H of them.
        per_sample: E_h of each sample, shape (samples, H, N, N + 1), >= 0; 0 where j < i + 2.
            Units of v.

    Raises:
        OtcacheError: if the candidates or the shape are wrong, or a value is negative or not
            finite.

    Examples:
        >>> E = np.zeros((1, 2, 2, 3))
        >>> E[0, :, 0, 2] = 3.0, 1.0
        >>> shard = LookbackCosts((1, 2), E)
        >>> merged = shard.merge(LookbackCosts((1, 2), 3 * E))
        >>> float(merged.costs[0, 2]), int(merged.lookbacks[0, 2])
        (2.0, 2)
    """

    same = ("num_steps", "candidates")

    candidates: tuple[int, ...]
    per_sample: NDArray[np.float64]

    def __post_init__(self) -> None:
        check_candidates(self.candidates)
        shape = self.per_sample.shape
        right = len(shape) == 4 and shape[0] >= 1 and shape[3] == shape[2] + 1 > 1
        if not right or shape[1] != len(self.candidates):
            wanted = f"of shape (samples, {len(self.candidates)}, N, N + 1)"
            raise OtcacheError(expected("LookbackCosts.per_sample", shape, wanted))
        if not (np.isfinite(self.per_sample).all() and (self.per_sample >= 0).all()):
            raise OtcacheError(
                "LookbackCosts.per_sample must be finite and >= 0, got another value: "
                "record the runs again."
            )

    @property
    def num_steps(self) -> int:
        """N."""
        return int(self.per_sample.shape[2])

    @property
    def table(self) -> NDArray[np.float64]:
        """E_h, the mean over samples; shape (H, N, N + 1)."""
        return self.mean

    @property
    def costs(self) -> NDArray[np.float64]:
        """C, shape (N, N + 1)."""
        return np.asarray(self.table.min(axis=0))

    @property
    def lookbacks(self) -> NDArray[np.intp]:
        """h* of each span, shape (N, N + 1); the smallest candidate where nothing is skipped."""
        return np.asarray(np.array(self.candidates, dtype=np.intp)[self.table.argmin(axis=0)])

    def applied(self, schedule: Schedule, forecaster: str = "mean-velocity") -> Schedule:
        """Forecast the same steps by mean velocities with the best lookback of each span.

        The weights of span m become (h*_m, h*_{m-1}, ..., h*_1), as
        :class:`~otcache_core.forecasters.MeanVelocity` reads them; they count for all branches that
        follow the schedule's own steps.

        Args:
            schedule: computed steps; its forecaster and weights are replaced.
            forecaster: ``mean-velocity`` or ``mean-velocity-paper``.

        Raises:
            OtcacheError: if N differs.
        """
        if schedule.num_steps != self.num_steps:
            wanted = f"{self.num_steps} as the costs'"
            raise OtcacheError(expected("schedule.num_steps", schedule.num_steps, wanted))
        found = [float(self.lookbacks[span.start, span.stop]) for span in schedule.spans()]
        rows = tuple(tuple(reversed(found[: m + 1])) for m in range(len(found)))
        return msgspec.structs.replace(
            schedule, forecaster=forecaster, weights=rows, branch_weights=()
        )


def check_candidates(candidates: tuple[int, ...]) -> None:
    """Raise OtcacheError unless they are increasing whole numbers, 1 or more, at least one."""
    whole = all(isinstance(h, int) and not isinstance(h, bool) and h >= 1 for h in candidates)
    if not candidates or not whole or list(candidates) != sorted(set(candidates)):
        wanted = "increasing whole numbers, 1 or more"
        raise OtcacheError(expected("lookbacks", candidates, wanted, "1 means plain reuse."))


@final
@dataclass(frozen=True, eq=False)
class MeanVelocityCosts(SpanCosts):
    """C of every span, and the lookback that attains it.

    Args:
        table: E_h of every lookback; ``costs`` are the least of it.
    """

    table: LookbackCosts

    def applied(self, schedule: Schedule) -> Schedule:
        """Forecast the same steps by ``mean-velocity`` with the best lookback of each span.

        Raises:
            OtcacheError: if N differs.
        """
        return self.table.applied(schedule)


@final
@dataclass(frozen=True)
class MeanVelocity(CostModel):
    r"""Measure how far the mean velocity of a span is from its forecast at the span's start.

    .. math:: C(i \to j) = \min_h E_h, \qquad
        E_h(i \to j) = E\, \Big| \frac{x_j - x_i}{s_j - s_i} - v_i - (s_j - s_i)\, J_h \Big|,
        \qquad J_h = \frac{x_i - x_r - (s_i - s_r)\, v_r}{(s_i - s_r)^2}

    the mean over elements, then samples, with r = max(i - h, 0). J_h = 0 at h = 1, at i = 0 and
    if s_i = s_r; a span over which s does not change costs 0. The recorded runs are enough: no
    evaluation is spent. Times ``|s_j - s_i|`` it is the error of one step of
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
        """Compute C of every span; see :class:`~otcache_core.contracts.CostModel`.

        Args:
            trajectories: recorded full runs, all of the same N.
            evaluator: not used.

        Raises:
            OtcacheError: as :meth:`lookback_costs`.
        """
        found = self.lookback_costs(trajectories)
        return MeanVelocityCosts(found.costs, 0, found.samples, found)

    def lookback_costs(self, trajectories: Sequence[Trajectory]) -> LookbackCosts:
        """Compute E_h of every span, lookback and sample; shards of it merge.

        Raises:
            OtcacheError: if there is no trajectory, or they differ in N.
        """
        recorded_steps(trajectories, "mean-velocity costs")
        tables = np.stack([_table(run, self.lookbacks) for run in trajectories])
        return LookbackCosts(self.lookbacks, tables)


def _table(run: Trajectory, lookbacks: tuple[int, ...]) -> Array:
    """Compute E_h of one sample, shape (H, N, N + 1), in float64, a slab of elements at a time."""
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
