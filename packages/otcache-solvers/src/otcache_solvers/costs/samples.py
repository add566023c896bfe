"""Span costs kept per sample, so that shards merge, and checks of recorded runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Trajectory
from otcache_core.contracts import SpanCosts
from otcache_core.errors import expected
from otcache_core.problem import PerSample, check_costs

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SampleCosts(PerSample):
    r"""w_n(i -> j) of every span and sample n.

    .. math:: w(i \to j) = \operatorname{mean}_n w_n(i \to j)

    Args:
        model: name of the cost model that measured them.
        per_sample: shape (samples, N, N + 1), each as
            :class:`~otcache_core.problem.ScheduleProblem` takes them; ``inf`` for the spans that a
            span cap omits, the same ones for all samples.
        nfe: denoiser evaluations spent beyond the recorded runs.

    Raises:
        OtcacheError: if the shape is wrong, a cost is NaN or negative, or samples differ in the
            spans they omit.

    Examples:
        >>> w = np.zeros((1, 2, 3))
        >>> w[0, 0, 2] = 1.0
        >>> merged = SampleCosts("local", w).merge(SampleCosts("local", 3 * w))
        >>> float(merged.costs[0, 2]), merged.samples
        (2.0, 2)
    """

    same = ("model", "num_steps")

    model: str
    per_sample: Array
    nfe: int = 0

    def __post_init__(self) -> None:
        shape = self.per_sample.shape
        if len(shape) != 3 or shape[0] < 1 or shape[2] != shape[1] + 1 or shape[1] < 1:
            wanted = "of shape (samples, N, N + 1)"
            raise OtcacheError(expected("SampleCosts.per_sample", shape, wanted))
        for costs in self.per_sample:
            check_costs(costs, shape[1])
        omitted = np.isinf(self.per_sample)
        if (omitted != omitted[0]).any():
            raise OtcacheError(
                "SampleCosts.per_sample must omit the same spans for all samples, got others: "
                "measure them with one span cap."
            )

    @property
    def num_steps(self) -> int:
        """N."""
        return int(self.per_sample.shape[1])

    @property
    def costs(self) -> Array:
        """w, the mean over samples; shape (N, N + 1)."""
        return self.mean

    def span_costs(self) -> SpanCosts:
        """Return the mean and its NFE, as a :class:`~otcache_core.contracts.CostModel` does."""
        return SpanCosts(self.costs, self.nfe, self.samples)


def recorded_steps(runs: Sequence[Trajectory], what: str) -> int:
    """Return N of recorded runs.

    Args:
        runs: recorded full runs.
        what: what needs them, a plural to begin a sentence with.

    Raises:
        OtcacheError: if there is none, or they differ in N.
    """
    if not runs:
        raise OtcacheError(f"{what} need a recorded full run, got none: record one first.")
    sizes = sorted({run.num_steps for run in runs})
    if len(sizes) > 1:
        raise OtcacheError(expected("num_steps", sizes, "one and the same for all runs"))
    return sizes[0]


def recorded_grid(runs: Sequence[Trajectory]) -> Array:
    """Return s_0 .. s_N of recorded runs.

    Raises:
        OtcacheError: if they differ in it.
    """
    if not all(np.array_equal(run.grid, runs[0].grid) for run in runs):
        raise OtcacheError(
            "recorded runs must share one grid, got several: record them all on one grid."
        )
    return np.asarray(runs[0].grid, dtype=np.float64)
