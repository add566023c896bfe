"""What a search for a path is given and what it returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from otcache_solvers.vector_sum.relaxation import Relaxed
from otcache_solvers.vector_sum.span_vectors import SpanVectors


@dataclass(frozen=True)
class Found:
    """The best path of a search.

    Args:
        computed: its steps, None where the search met no path.
        value: f' M f, infinite without a path.
        lower_bound: no path of the budget is below it; None where the search cannot tell.
        reason: why the bound does not meet the value; empty where it does.
        stats: counters.
    """

    computed: tuple[int, ...] | None
    value: float = math.inf
    lower_bound: float | None = None
    reason: str = ""
    stats: dict[str, Any] = field(default_factory=dict)


class PathSearch(ABC):
    """Look for the path of B spans from 0 to N with the least vector sum.

    Laws: deterministic unless stopped by a clock; the value is that of the whole Gram; the lower
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
