"""Every path, met in the middle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_solvers.vector_sum.relaxation import Relaxed
from otcache_solvers.vector_sum.search import Found, PathSearch
from otcache_solvers.vector_sum.span_vectors import SpanVectors

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
ROWS, COLUMNS = 512, 4096


@final
@dataclass(frozen=True)
class Enumeration(PathSearch):
    r"""Try all binom(N-1, B-1) schedules, as sums of a first and a second half.

    .. math:: \| p + q \|^2 = \|p\|^2 + \|q\|^2 + 2 \langle p, q \rangle

    with p over the paths of ceil(B/2) spans from 0 to j and q over those of the rest from j to N:
    one matrix product for each j. What the short vectors cannot exclude is valued with all of M, so
    the answer is exact at any rank.

    Args:
        max_schedules: refuse larger problems.
    """

    max_schedules: int = 100_000_000

    @property
    def name(self) -> str:
        """For the certificate."""
        return "enumeration"

    def search(self, spans: SpanVectors, budget: int, relaxed: Relaxed | None) -> Found:
        """The optimum.

        Raises:
            OtcacheError: if there are too many schedules.
        """
        n, first = spans.num_steps, (budget + 1) // 2
        rest = budget - first
        count = math.comb(n - 1, budget - 1)
        if count > self.max_schedules:
            wanted = f"at most {self.max_schedules:,}"
            advice = "use BranchAndBound() instead."
            raise OtcacheError(
                expected(f"schedules with N = {n}, B = {budget}", count, wanted, advice)
            )
        best: tuple[float, tuple[int, ...]] = (math.inf, ())
        for j in range(first, n - rest + 1):
            heads = _paths(spans, 0, j, first)
            tails = _paths(spans, j, n, rest)
            for steps, value in _candidates(spans, heads, tails, best[0], budget):
                best = min(best, (value, steps))
        return Found(best[1], best[0], best[0], "", {"schedules": count})


def _paths(spans: SpanVectors, start: int, stop: int, count: int) -> Ints:
    """Nodes of every path of ``count`` usable spans between two nodes, shape (paths, count + 1)."""
    if count == 0 or start == stop:
        return np.full((int(count == 0 and start == stop), 1), start, dtype=np.intp)
    inner = itertools.combinations(range(start + 1, stop), count - 1)
    flat = np.fromiter(itertools.chain.from_iterable(inner), dtype=np.intp)
    total = math.comb(stop - start - 1, count - 1)
    nodes = np.empty((total, count + 1), dtype=np.intp)
    nodes[:, 0], nodes[:, -1] = start, stop
    nodes[:, 1:-1] = flat.reshape(total, count - 1)
    return nodes[spans.usable[nodes[:, :-1], nodes[:, 1:]].all(axis=1)]


def _sums(spans: SpanVectors, nodes: Ints) -> Floats:
    """Vector sum of each path, shape (paths, r)."""
    total = np.zeros((len(nodes), spans.rank))
    for i, j in itertools.pairwise(nodes.T):
        total += spans.vectors[i, j]
    return total


def _candidates(
    spans: SpanVectors, heads: Ints, tails: Ints, value: float, budget: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Paths through one middle node that are better than ``value``, ever better ones."""
    for column in range(0, len(tails), COLUMNS):
        ends = tails[column : column + COLUMNS]
        q = _sums(spans, ends)
        for row in range(0, len(heads), ROWS):
            begins = heads[row : row + ROWS]
            p = _sums(spans, begins)
            norms = p @ (2.0 * q.T)
            norms += (p**2).sum(axis=1)[:, None]
            norms += (q**2).sum(axis=1)
            better = np.flatnonzero(norms < spans.cut(value, budget))
            for at in better[norms.flat[better].argsort(kind="stable")]:
                if not norms.flat[at] < spans.cut(value, budget):
                    break
                a, b = divmod(int(at), len(ends))
                steps = (*begins[a, :-1].tolist(), *ends[b, :-1].tolist())
                found = spans.value(steps)
                if found < value:
                    value = found
                    yield steps, found
