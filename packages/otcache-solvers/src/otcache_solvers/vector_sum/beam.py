"""A beam of partial vector sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_solvers.vector_sum.labels import Labels, reachable
from otcache_solvers.vector_sum.relaxation import Relaxed
from otcache_solvers.vector_sum.search import Found, PathSearch
from otcache_solvers.vector_sum.span_vectors import SpanVectors


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
        if self.width < 1:
            raise OtcacheError(expected("Beam.width", self.width, "at least 1"))

    @property
    def name(self) -> str:
        """For the certificate."""
        return f"beam of width {self.width}"

    def search(self, spans: SpanVectors, budget: int, relaxed: Relaxed | None) -> Found:
        """The best of the complete paths kept."""
        labels, ahead = Labels.start(spans.rank), reachable(spans, budget)
        made = 0
        for left in range(budget - 1, -1, -1):
            label, stop = labels.children(spans, ahead[left])
            grown = labels.extend(spans, label, stop)
            made += len(grown)
            labels = grown.keep(_least(grown, self.width))
        paths = [tuple(nodes[:-1]) for nodes in labels.nodes.tolist()]
        value, steps = min((spans.value(path), path) for path in paths)
        reason = "a beam proves nothing by itself"
        return Found(steps, value, None, reason, {"labels": made})


def _least(labels: Labels, width: int) -> Ints:
    """Rows of the ``width`` least norms at each node."""
    norms = np.einsum("mr,mr->m", labels.sums, labels.sums)
    order = np.lexsort((norms, labels.last))
    node = labels.last[order]
    first = np.searchsorted(node, node)  # where the run of this node begins
    return np.asarray(order[np.arange(len(order)) - first < width])
