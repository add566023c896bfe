"""Search the strength of the forecast along with the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import Schedule
from otcache_core.forecasters.strength import Curve, StrengthCurve, weights_from_strengths
from otcache_solvers.search.search_space import SearchSpace


@final
@dataclass(frozen=True)
class StrengthSpace(SearchSpace):
    r"""Another space, and one number more: how strongly the schedule forecasts.

    .. math:: c_{m,r} = x\, \theta_r(u_m)\, c^{\mathrm{lin}}_{m,r}, \qquad u_m = (m-1)/B

    with theta a curve of strengths (:mod:`otcache_core.forecasters.strength`) and x in [0, 1.5]:
    0 is reuse, 1 the curve.

    Args:
        steps: the space of the computed steps.
        curve: theta.
        grid: s_0 .. s_N.
    """

    steps: SearchSpace
    curve: StrengthCurve
    grid: tuple[float, ...]

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {**self.steps.limits, "strength": (0.0, 1.5)}

    def schedule(self, point: Mapping[str, float]) -> Schedule:
        where = {name: value for name, value in point.items() if name != "strength"}
        factor = point["strength"]

        def scaled(u: float, length: int) -> tuple[float, ...]:
            return tuple(factor * theta for theta in self.curve(u, length))

        return self._weighted(self.steps.schedule(where), scaled, self.curve.memory)

    def nearest(self, schedule: Schedule) -> dict[str, float]:
        return {**self.steps.nearest(schedule), "strength": 1.0}

    def carried(self, start: Schedule, moved: Schedule) -> Schedule:
        """The moved schedule with the strengths that the start has; as it is if that has none."""
        if not start.weights:
            return moved
        curve = StrengthCurve.of(start, np.array(self.grid))
        return self._weighted(moved, curve, start.memory)

    def _weighted(self, schedule: Schedule, curve: Curve, memory: int) -> Schedule:
        rows = weights_from_strengths(schedule, curve, np.array(self.grid), memory)
        return schedule.with_weights(rows)
