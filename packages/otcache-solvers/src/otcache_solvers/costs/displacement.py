"""Span costs from local displacements, with and without propagation to the end of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from otcache_core import Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts
from otcache_core.problem import Displacements, Spans, all_spans
from otcache_core.storage.recordings import slabs
from otcache_solvers.costs.gram import Gram
from otcache_solvers.costs.propagation import Deviations, Propagation, ScalarGain
from otcache_solvers.costs.samples import (
    Array,
    SampleCosts,
    recorded_grid,
    recorded_steps,
)
from otcache_solvers.needs import check_least


@final
@dataclass(frozen=True)
class Displacement(CostModel):
    r"""Measure the displacement d(i -> j) of every span, as vectors.

    .. math:: \delta(i \to j) = \sum_{t=i+1}^{j-1} (s_{t+1} - s_t)(v_i - v_t), \qquad
        w(i \to j) = \big( E \| d(i \to j) \|^2 \big)^{1/2}

    delta is the local displacement x_j(skipped) - x_j(full) of an Euler sampler under output reuse;
    linear in the outputs, so that its inner products follow from the Gram matrix of the outputs and
    do not suffer from the rounding of the states. A :class:`Propagation` carries it to the end.
    Each sample has the weight of one. Spans filled by another forecaster are not covered: their
    displacement depends on the spans before them.

    References:
        docs/theory.md, section 6.

    Args:
        propagation: ``ScalarGain()`` or ``Exact()``.
        samples: number of calibration samples to measure on, the first ones; all by default.
        span_cap: longest span measured, in steps; longer ones may not be used. A cap below N/B
            makes budget B infeasible, so there is none by default.

    Raises:
        OtcacheError: if ``samples`` or ``span_cap`` is below 1.
    """

    propagation: Propagation = field(default_factory=ScalarGain)
    samples: int | None = None
    span_cap: int | None = None

    def __post_init__(self) -> None:
        check_least(self, samples=1, span_cap=1)

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        """Compute the size of each displacement; see :class:`~otcache_core.contracts.CostModel`.

        Raises:
            OtcacheError: as :meth:`displacements`.
        """
        found = self.displacements(trajectories, evaluator)
        return SpanCosts(found.weights(), found.nfe, found.samples)

    def displacements(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> Displacements:
        """Measure the displacements themselves, for :class:`~otcache_solvers.vector_sum.solver.VectorSum`.

        Args:
            trajectories: recorded full runs, all of the same N and grid.
            evaluator: its samples are the trajectories'; for propagations that run the pipeline.

        Raises:
            OtcacheError: if there is no trajectory, they differ in N or grid, or an evaluator is
                needed and missing.
        """
        runs = trajectories[: self.samples]
        n, grid = recorded_steps(runs, "displacements"), recorded_grid(runs)
        spans = all_spans(n, self.span_cap)
        # Through a root of the Gram: A H A' itself would cancel to values below 0 if the outputs
        # hardly change over the run.
        values, vectors = np.linalg.eigh(Gram.of(runs).per_sample)
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        local = _combinations(spans, grid) @ root
        deviations = Deviations(n, spans, local @ local.transpose(0, 2, 1))
        grams, nfe = self.propagation.grams(deviations, evaluator)
        how = self.propagation.description
        return Displacements(n, spans, grams, propagation=how, nfe=nfe)


def _combinations(spans: Spans, grid: Array) -> Array:
    """Compute A with delta_e = sum_t A[e, t] v_t, shape (E, N)."""
    A = np.zeros((len(spans), len(grid) - 1))
    steps = np.diff(grid)
    for row, (i, j) in zip(A, spans, strict=True):
        row[i] = grid[j] - grid[i + 1]
        row[i + 1 : j] = -steps[i + 1 : j]
    return A


@final
@dataclass(frozen=True)
class Local(CostModel):
    r"""Measure how far one Euler step over the span lands from the recorded state.

    .. math:: w(i \to j) = E\, | x_i + (s_j - s_i)\, v_i - x_j |

    the mean over elements, then samples: the size of the local displacement under output reuse.
    Nothing is run; what happens to the deviation after step j is not seen. For a
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
        """Compute the cost of every span; see :class:`~otcache_core.contracts.CostModel`.

        Args:
            trajectories: recorded full runs, all of the same N.
            evaluator: not used.

        Raises:
            OtcacheError: as :meth:`sample_costs`.
        """
        return self.sample_costs(trajectories).span_costs()

    def sample_costs(self, trajectories: Sequence[Trajectory]) -> SampleCosts:
        """Compute the costs of each sample, which shards can merge.

        Raises:
            OtcacheError: if there is no trajectory, or they differ in N.
        """
        recorded_steps(trajectories, "local costs")
        return SampleCosts("local", np.stack([_table(t) for t in trajectories]))


def _table(run: Trajectory) -> Array:
    """Compute w of one sample, shape (N, N + 1), in float64, a slab of elements at a time."""
    n, d = run.outputs.shape
    costs = np.zeros((n, n + 1))
    for slab in zip(slabs(run.states), slabs(run.outputs), strict=True):
        x, v = (part.astype(np.float64) for part in slab)
        for i in range(n - 1):
            far = np.arange(i + 2, n + 1)
            landed = x[i] + np.outer(run.grid[far] - run.grid[i], v[i])
            costs[i, far] += np.abs(landed - x[far]).sum(axis=1)
    return np.asarray(costs / d)
