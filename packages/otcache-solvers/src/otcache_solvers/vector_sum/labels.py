"""Partial paths that carry their vector sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_solvers.vector_sum.span_vectors import SpanVectors

Ints = NDArray[np.intp]


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
        """The empty path at node 0."""
        return cls(np.zeros((1, 1), dtype=np.intp), np.zeros((1, rank)))

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def last(self) -> Ints:
        """Where each path has come to."""
        return self.nodes[:, -1]

    def children(self, spans: SpanVectors, reachable: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Pairs (label, next node) that can be completed, sorted by next node, then label."""
        stop, label = np.nonzero((spans.usable[self.last] & reachable).T)
        return label, stop

    def extend(self, spans: SpanVectors, label: Ints, stop: Ints) -> Labels:
        """These labels, each one span further."""
        nodes = np.concatenate([self.nodes[label], stop[:, None]], axis=1)
        return Labels(nodes, self.sums[label] + spans.vectors[self.last[label], stop])

    def keep(self, rows: Ints) -> Labels:
        """Some of them."""
        return Labels(self.nodes[rows], self.sums[rows])


def reachable(spans: SpanVectors, budget: int) -> NDArray[np.bool_]:
    """Whether N can be reached from a node by exactly b spans; shape (budget + 1, N + 1)."""
    n = spans.num_steps
    found = np.zeros((budget + 1, n + 1), dtype=bool)
    found[0, n] = True
    for b in range(1, budget + 1):
        found[b, :n] = (spans.usable & found[b - 1]).any(axis=1)
    return found
