"""Branch and bound by layers, with projection bounds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_solvers.needs import check_least
from otcache_solvers.vector_sum.relaxation import Projections, Relaxed, nearest
from otcache_solvers.vector_sum.search import Beam, Found, PathSearch
from otcache_solvers.vector_sum.span_vectors import Labels, SpanVectors, reachable

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@final
@dataclass(frozen=True)
class BranchAndBound(PathSearch):
    r"""Grow all partial paths span by span, and drop those that cannot beat the best path known.

    .. math:: \| p + q \| \ge \max_u\, \langle u, p \rangle + h_u(b, j)
        \quad \text{for every completion } q \text{ of } b \text{ spans from } j

    (:class:`~otcache_solvers.vector_sum.relaxation.Projections`). Directions u come from the root
    relaxation and, at every layer, from the relaxation at the labels with the lowest bounds. A pass keeps at
    most ``width`` labels per layer, those of lowest bound; what it drops bounds the optimum too:

    .. math:: \min_S \ge \min(\text{best path}, \text{least bound dropped})

    Passes of growing width go on until the two meet, or a limit is reached.

    Args:
        start: finds the first path.
        width: labels per layer of the first pass; each further pass has four times as many.
        max_width: of the last pass. Memory is about 4 KiB per label at rank 100.
        probes: labels per layer that give new directions.
        seconds: time limit, checked at every layer. A search that it stops is not reproducible:
            its schedule and bound depend on the machine.

    Raises:
        OtcacheError: if an argument is out of range.
    """

    name = "branch and bound"

    start: PathSearch = field(default_factory=Beam)
    width: int = 1024
    max_width: int = 65_536
    probes: int = 4
    seconds: float = math.inf

    def __post_init__(self) -> None:
        check_least(self, width=1, max_width=self.width, probes=0)
        if not self.seconds > 0:
            raise OtcacheError(expected("BranchAndBound.seconds", self.seconds, "above 0"))

    def search(self, spans: SpanVectors, budget: int, relaxed: Relaxed | None) -> Found:
        """Find the optimum, or the best path and bound within the limits."""
        began = time.monotonic()
        first = self.start.search(spans, budget, relaxed)
        known = None if relaxed is None else relaxed.direction
        directions = np.zeros((0, spans.rank)) if known is None else known[None]
        run = _Pass(spans, budget, first, directions, began + self.seconds, self.probes)
        lower = 0.0 if relaxed is None else relaxed.lower_bound
        width, widths = self.width, 0
        while True:
            lower, widths = max(lower, run.sweep(width)), widths + 1
            if lower >= run.spans.cut(run.value, budget):
                lower, reason = run.value, ""
                break
            if run.late():
                reason = f"the time limit of {self.seconds:g} s was reached: raise `seconds`"
                break
            if width >= self.max_width:
                reason = f"the layers were cut to {width} labels: raise `max_width`"
                break
            width = min(4 * width, self.max_width)
        stats = {"labels": run.labels, "passes": widths}
        return Found(run.steps, run.value, min(lower, run.value), reason, stats)


class _Pass:
    """The best path known, and one sweep over the layers after the other."""

    def __init__(
        self,
        spans: SpanVectors,
        budget: int,
        first: Found,
        directions: Floats,
        deadline: float,
        probes: int,
    ) -> None:
        self.spans, self.budget, self.deadline, self.probes = spans, budget, deadline, probes
        self.steps, self.value, self.labels = first.computed, first.value, 0
        self._ahead = reachable(spans, budget)
        self._root = Projections.of(spans, directions, budget)

    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.deadline

    def sweep(self, width: int) -> float:
        """Make one pass; return a lower bound of the objective over all paths."""
        labels, bounds = Labels.start(self.spans.rank), np.zeros(1)
        dropped = math.inf
        table = self._root
        for left in range(self.budget - 1, -1, -1):
            if self.late():
                return min(dropped, float(bounds.min(initial=math.inf))) ** 2
            label, stop = labels.children(self.spans, self._ahead[left])
            low = self._bounds(table, labels, label, stop, left, bounds)
            kept = self._promising(low)
            kept, out = _cheapest(kept, low, 4 * width)
            labels = labels.extend(self.spans, label[kept], stop[kept])
            bounds, dropped = low[kept], min(dropped, out)
            self.labels += len(labels)
            if left == 0:
                self._finish(labels)
                break
            table = self._improve(table, labels, bounds, left)
            kept, out = _cheapest(self._promising(bounds), bounds, width)
            labels, bounds, dropped = labels.keep(kept), bounds[kept], min(dropped, out)
        return dropped**2

    def _promising(self, bounds: Floats) -> Ints:
        return np.flatnonzero(bounds**2 < self.spans.cut(self.value, self.budget))

    def _bounds(
        self, table: Projections, labels: Labels, label: Ints, stop: Ints, left: int, before: Floats
    ) -> Floats:
        """Bound each child; at least by the bound of its parent."""
        low = before[label]
        along = labels.sums @ table.directions.T
        ends = np.searchsorted(stop, np.arange(self.spans.num_steps + 2))
        for j in np.unique(stop):
            rows = slice(ends[j], ends[j + 1])
            parents = label[rows]
            through = along[parents] + table.spans[labels.last[parents], j]
            low[rows] = np.maximum(
                low[rows], (through + table.rest[left, j]).max(axis=1, initial=0)
            )
        return low

    def _improve(
        self, table: Projections, labels: Labels, bounds: Floats, left: int
    ) -> Projections:
        """Raise the bounds in place by new directions, and add those to the table."""
        for _ in range(self.probes):
            open_ = self._promising(bounds)
            if not len(open_) or self.late():
                break
            worst = int(open_[bounds[open_].argmin()])
            node = int(labels.last[worst])
            found = nearest(self.spans, left, node, labels.sums[worst])
            new = Projections.of(self.spans, found.direction[None], left)
            low = labels.sums @ found.direction + new.rest[left, labels.last, 0]
            np.maximum(bounds, low, out=bounds)
            bounds[worst] = max(bounds[worst], found.bound)
            table = _join(table, new, left)
        return table

    def _finish(self, labels: Labels) -> None:
        """Value complete paths, those of least norm first."""
        norms = np.einsum("mr,mr->m", labels.sums, labels.sums)
        for row in norms.argsort(kind="stable"):
            if not norms[row] < self.spans.cut(self.value, self.budget):
                break
            steps = tuple(labels.nodes[row, :-1].tolist())
            value = self.spans.displacements.error(steps)
            if value < self.value:
                self.steps, self.value = steps, value


def _cheapest(rows: Ints, bounds: Floats, width: int) -> tuple[Ints, float]:
    """Return the ``width`` rows of lowest bound, and the least bound among the others."""
    if len(rows) <= width:
        return rows, math.inf
    order = rows[bounds[rows].argsort(kind="stable")]
    return np.sort(order[:width]), float(bounds[order[width]])


def _join(table: Projections, new: Projections, left: int) -> Projections:
    """Join both sets of directions, for up to ``left`` spans."""
    return Projections(
        np.concatenate([table.directions, new.directions]),
        np.concatenate([table.spans, new.spans], axis=2),
        np.concatenate([table.rest[: left + 1], new.rest[: left + 1]], axis=2),
    )
