"""Span costs that are means over samples, kept per sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.contracts import SpanCosts
from otcache_core.errors import expected
from otcache_core.problem import check_costs


@dataclass(frozen=True, eq=False)
class SampleCosts:
    r"""w_n(i -> j) of every span and sample n.

    .. math:: w(i \to j) = \operatorname{mean}_n w_n(i \to j)

    Shards may be measured on different machines and merged in any order to the same bits.

    Args:
        model: name of the cost model that measured them.
        per_sample: shape (samples, N, N + 1), each as
            :class:`~otcache_core.problem.ScheduleProblem` takes them; ``inf`` where a span cap
            leaves one out, the same ones for all samples.
        nfe: denoiser evaluations spent beyond the recorded runs.

    Raises:
        OtcacheError: if the shape is wrong, a cost is NaN or negative, or samples differ in the
            spans they leave out.

    Examples:
        >>> w = np.zeros((1, 2, 3))
        >>> w[0, 0, 2] = 1.0
        >>> merged = SampleCosts("local", w).merge(SampleCosts("local", 3 * w))
        >>> float(merged.costs[0, 2]), merged.samples
        (2.0, 2)
    """

    model: str
    per_sample: NDArray[np.float64]
    nfe: int = 0

    def __post_init__(self) -> None:
        shape = self.per_sample.shape
        if len(shape) != 3 or shape[0] < 1 or shape[2] != shape[1] + 1 or shape[1] < 1:
            wanted = "of shape (samples, N, N + 1)"
            raise OtcacheError(expected("SampleCosts.per_sample", shape, wanted))
        for costs in self.per_sample:
            check_costs(costs, shape[1])
        left_out = np.isinf(self.per_sample)
        if (left_out != left_out[0]).any():
            raise OtcacheError(
                "SampleCosts.per_sample must leave out the same spans for all samples, got others: "
                "measure them with one span cap."
            )

    def merge(self, other: SampleCosts) -> SampleCosts:
        """The costs of both shards' samples.

        Raises:
            OtcacheError: if the model, N or the spans left out differ.
        """
        for name in ("model", "num_steps"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise OtcacheError(
                    expected(f"SampleCosts.{name}", theirs, f"{mine!r}, as the other shard's")
                )
        both = np.concatenate([self.per_sample, other.per_sample])
        return SampleCosts(self.model, both, self.nfe + other.nfe)

    @property
    def num_steps(self) -> int:
        """N."""
        return int(self.per_sample.shape[1])

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.per_sample)

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """w, the mean over samples; shape (N, N + 1)."""
        # math.fsum rounds once, so the order in which shards were merged leaves no trace.
        columns = self.per_sample.reshape(self.samples, -1).T.tolist()
        mean = np.array([math.fsum(column) for column in columns]) / self.samples
        return np.asarray(mean.reshape(self.per_sample.shape[1:]))

    def span_costs(self) -> SpanCosts:
        """The mean and its price, as a :class:`~otcache_core.contracts.CostModel` returns it."""
        return SpanCosts(self.costs, self.nfe, self.samples)
