"""Searches for the path of least vector sum: every path, and a beam."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_solvers.needs import check_least
from otcache_solvers.vector_sum.relaxation import Relaxed
from otcache_solvers.vector_sum.span_vectors import Labels, SpanVectors, reachable


@dataclass(frozen=True)
class Found:
    """The best path of a search.

    Args:
        computed: its steps.
        value: f' M f.
        lower_bound: no path of the budget is below it; None if the search proves none.
        reason: why the bound does not meet the value; empty if it does.
        stats: counters.
    """

    computed: tuple[int, ...]
    value: float
    lower_bound: float | None = None
    reason: str = ""
    stats: dict[str, Any] = field(default_factory=dict)


class PathSearch(ABC):
    """Look for the path of B spans from 0 to N with the least vector sum.

    Properties: deterministic unless stopped by a clock; the value is that of the whole Gram; the lower
    bound is at most the value of every path of B spans.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """For the certificate."""

    @abstractmethod
    def search(self, spans: SpanVectors, budget: int, relaxed: Relaxed | None) -> Found:
        """Search. At least one path of the budget exists.

        Args:
            spans: the vectors.
            budget: B.
            relaxed: the convex relaxation, if it was solved.
        """


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

    name = "enumeration"

    max_schedules: int = 100_000_000

    def search(self, spans: SpanVectors, budget: int, relaxed: Relaxed | None) -> Found:
        """Find the optimum.

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
    """List the nodes of paths of ``count`` usable spans between two nodes, shape (paths, count + 1)."""
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
    """Compute the vector sum of each path, shape (paths, r)."""
    total = np.zeros((len(nodes), spans.rank))
    for i, j in itertools.pairwise(nodes.T):
        total += spans.vectors[i, j]
    return total


def _candidates(
    spans: SpanVectors, heads: Ints, tails: Ints, value: float, budget: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield paths through one middle node that are better than ``value``, each better than the last."""
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
                found = spans.displacements.error(steps)
                if found < value:
                    value = found
                    yield steps, found


@final
@dataclass(frozen=True)
class Beam(PathSearch):
    r"""Keep, at each number of spans and each node, the partial sums of least norm.

    .. math:: (b, j) \mapsto \text{the } width \text{ labels } p = \sum_e d_e
        \text{ of least } \|p\|^2

    A heuristic: a longer partial sum may cancel later. It proves nothing by itself. The complete
    paths it ends with are valued with all of M.

    Args:
        width: labels kept at a node, at least 1.

    Raises:
        OtcacheError: if the width is below 1.
    """

    width: int = 64

    def __post_init__(self) -> None:
        check_least(self, width=1)

    @property
    def name(self) -> str:
        """For the certificate."""
        return f"beam of width {self.width}"

    def search(self, spans: SpanVectors, budget: int, relaxed: Relaxed | None) -> Found:
        """Find the best of the complete paths kept."""
        labels, ahead = Labels.start(spans.rank), reachable(spans, budget)
        made = 0
        for left in range(budget - 1, -1, -1):
            label, stop = labels.children(spans, ahead[left])
            grown = labels.extend(spans, label, stop)
            made += len(grown)
            labels = grown.keep(_least(grown, self.width))
        paths = [tuple(nodes[:-1]) for nodes in labels.nodes.tolist()]
        value, steps = min((spans.displacements.error(path), path) for path in paths)
        reason = "a beam proves nothing by itself"
        return Found(steps, value, None, reason, {"labels": made})


def _least(labels: Labels, width: int) -> Ints:
    """Select the rows of the ``width`` least norms at each node."""
    norms = np.einsum("mr,mr->m", labels.sums, labels.sums)
    order = np.lexsort((norms, labels.last))
    node = labels.last[order]
    first = np.searchsorted(node, node)  # where the run of this node begins
    return np.asarray(order[np.arange(len(order)) - first < width])
