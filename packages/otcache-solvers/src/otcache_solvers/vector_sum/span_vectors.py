"""Displacements of spans as short vectors, and partial paths that carry their sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_core.problem import Displacements

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class SpanVectors:
    r"""The Gram of the spans factored to low rank, with a bound of what is omitted.

    .. math:: M = \sum_q \lambda_q u_q u_q', \qquad d_e = (\sqrt{\lambda_q}\, u_{q,e})_{q \le r},
        \qquad -\epsilon B \le f' M f - \Big\| \sum_{e} f_e d_e \Big\|^2 \le \lambda_{r+1} B

    for the unit flow f of any path of B spans, since ||f||^2 is at most B; epsilon is the rounding
    of M: its eigenvalues below 0, or 1e-16 of the largest. So the norm of the short vectors bounds
    the objective from below at any rank.

    Args:
        displacements: M and the span graph.
        vectors: d_e in entry [i, j], shape (N, N + 1, r); 0 where there is no such span.
        usable: which entries are spans a path may use, those of length one included; (N, N + 1).
        tail: lambda_{r+1}, units of x squared.
        neglected: omitted part of the trace of M, in 0..1.
        rounding: epsilon, units of x squared.
    """

    displacements: Displacements
    vectors: Floats
    usable: NDArray[np.bool_]
    tail: float
    neglected: float
    rounding: float

    @classmethod
    def of(cls, displacements: Displacements, tolerance: float = 1e-9) -> SpanVectors:
        """Keep the least rank whose neglected trace is at most ``tolerance`` of the whole.

        Args:
            displacements: measured spans.
            tolerance: at least 0 and below 1.

        Raises:
            OtcacheError: if the tolerance is out of range.
        """
        if not 0 <= tolerance < 1:
            raise OtcacheError(expected("tolerance", tolerance, "at least 0 and below 1"))
        values, vectors = np.linalg.eigh(displacements.matrix)
        lowest = float(values[0]) if len(values) else 0.0
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        trace, largest = float(values.sum()), float(values.max(initial=0.0))
        left = np.append(np.cumsum(values[::-1])[::-1], 0.0)  # trace without the first r
        rank = int(np.argmax(left <= tolerance * trace))
        rows = vectors[:, :rank] * np.sqrt(values[:rank])
        index = displacements.index
        padded = np.concatenate([rows, np.zeros((1, rank))])
        return cls(
            displacements,
            np.where(index[:, :, None] >= 0, padded[index], 0.0),
            index >= 0,
            float(values[rank]) if rank < len(values) else 0.0,
            float(left[rank]) / trace if trace else 0.0,
            max(-lowest, 1e-16 * largest),
        )

    @property
    def num_steps(self) -> int:
        """N."""
        return self.displacements.num_steps

    @property
    def rank(self) -> int:
        """The rank r."""
        return int(self.vectors.shape[2])

    def resolution(self, value: float, budget: int) -> float:
        """Return the difference that does not count: 1e-9 of ``value``, and the rounding of M."""
        return 1e-9 * value + budget * self.rounding

    def cut(self, value: float, budget: int) -> float:
        """Return what a squared norm must stay below for its path to be better than ``value``."""
        return value if value == np.inf else value - self.resolution(value, budget)

    def truncation(self, budget: int) -> float:
        """Compute lambda_{r+1} B: how much of the objective of a path the short vectors can miss."""
        return self.tail * budget


@dataclass(frozen=True, eq=False)
class Labels:
    """Paths from 0 of one length.

    Args:
        nodes: of each path, shape (labels, spans + 1).
        sums: of d over each path, shape (labels, r).
    """

    nodes: Ints
    sums: Floats

    @classmethod
    def start(cls, rank: int) -> Labels:
        """Start from the empty path at node 0."""
        return cls(np.zeros((1, 1), dtype=np.intp), np.zeros((1, rank)))

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def last(self) -> Ints:
        """The last node of each path."""
        return self.nodes[:, -1]

    def children(self, spans: SpanVectors, reachable: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """List pairs (label, next node) that can be completed, sorted by next node, then label."""
        stop, label = np.nonzero((spans.usable[self.last] & reachable).T)
        return label, stop

    def extend(self, spans: SpanVectors, label: Ints, stop: Ints) -> Labels:
        """Extend these labels by one span each."""
        nodes = np.concatenate([self.nodes[label], stop[:, None]], axis=1)
        return Labels(nodes, self.sums[label] + spans.vectors[self.last[label], stop])

    def keep(self, rows: Ints) -> Labels:
        """Keep some of them."""
        return Labels(self.nodes[rows], self.sums[rows])


def reachable(spans: SpanVectors, budget: int) -> NDArray[np.bool_]:
    """Say whether N can be reached from a node by exactly b spans; shape (budget + 1, N + 1)."""
    n = spans.num_steps
    found = np.zeros((budget + 1, n + 1), dtype=bool)
    found[0, n] = True
    for b in range(1, budget + 1):
        found[b, :n] = (spans.usable & found[b - 1]).any(axis=1)
    return found
