"""The forecast weights of a schedule as one vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import Schedule


@dataclass(frozen=True)
class WeightVector:
    """The weights that do something: those of spans that skip a step.

    Where branches have weights of their own, those are varied and the shared ones, which only serve
    branches without, are left as they are.

    Args:
        base: the schedule.
        places: (branch, span, r) of each entry; the empty branch is the shared weights.
    """

    base: Schedule
    places: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, schedule: Schedule) -> WeightVector:
        """The vector of a schedule with stored weights."""
        names = [name for name, _ in schedule.branch_weights] or [""]
        places = [
            (name, m, r)
            for name in names
            for m, span in enumerate(schedule.spans(name))
            if span.skipped
            for r in range(len(span.weights))
        ]
        return cls(schedule, tuple(places))

    @property
    def values(self) -> NDArray[np.float64]:
        """The weights in the order of ``places``."""
        tables = self._tables()
        return np.array([tables[name][m][r] for name, m, r in self.places])

    def schedule(self, values: NDArray[np.float64]) -> Schedule:
        """The schedule with other weights at these places."""
        tables = self._tables()
        for (name, m, r), value in zip(self.places, values.tolist(), strict=True):
            tables[name][m][r] = value
        shared = tables.pop("")
        return self.base.with_weights(shared, tables)

    def _tables(self) -> dict[str, list[list[float]]]:
        pairs = [("", self.base.weights), *self.base.branch_weights]
        return {name: [list(row) for row in rows] for name, rows in pairs}
