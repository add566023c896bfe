"""The falling epsilons of entropic transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from otcache_core import OtcacheError
from otcache_core.errors import expected


@final
@dataclass(frozen=True)
class Annealed:
    """epsilon from ``start`` down to ``end`` by ``factor`` a stage, relative to the largest cost.

    Raises:
        OtcacheError: if not 0 < end <= start, or the factor is not in (0, 1).
    """

    start: float = 1.0
    end: float = 1e-3
    factor: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start:
            raise OtcacheError(expected("Annealed.end", self.end, f"in (0, {self.start}]"))
        if not 0 < self.factor < 1:
            raise OtcacheError(expected("Annealed.factor", self.factor, "between 0 and 1"))

    def stages(self) -> list[float]:
        """Every epsilon, largest first."""
        found, epsilon = [], self.start
        while epsilon > self.end:
            found.append(epsilon)
            epsilon *= self.factor
        return [*found, self.end]
