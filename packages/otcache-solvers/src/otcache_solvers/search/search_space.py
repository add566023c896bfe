"""Numbers that a sampler of numbers may vary, and the schedules they stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import Schedule
from otcache_core.warp import round_to_steps
from otcache_solvers.search.kumaraswamy import LIMITS, Kumaraswamy


class SearchSpace(ABC):
    """Schedules of one N and budget by named numbers.

    Laws: every point within the limits gives a schedule of that N and budget; ``nearest`` lies
    within the limits.
    """

    @property
    @abstractmethod
    def limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each number, both included; of an integer, two ints."""

    @abstractmethod
    def schedule(self, point: Mapping[str, float]) -> Schedule:
        """The schedule of a point."""

    @abstractmethod
    def nearest(self, schedule: Schedule) -> dict[str, float]:
        """The point whose schedule is closest to a given one of this N and budget."""


@final
@dataclass(frozen=True)
class WarpSpace(SearchSpace):
    """A :class:`~otcache_solvers.search.kumaraswamy.Kumaraswamy` warp, whatever the budget two numbers.

    Args:
        num_steps: N.
        budget: B.
        bump: also the local deformation, two numbers more.
    """

    num_steps: int
    budget: int
    bump: bool = False

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        names = ("log_a", "log_b", "bump", "centre") if self.bump else ("log_a", "log_b")
        return {name: LIMITS[name] for name in names}

    def schedule(self, point: Mapping[str, float]) -> Schedule:
        return Kumaraswamy(**point).schedule(self.num_steps, self.budget)

    def nearest(self, schedule: Schedule) -> dict[str, float]:
        warp = Kumaraswamy.nearest(schedule)
        return {name: getattr(warp, name) for name in self.limits}


@final
@dataclass(frozen=True)
class GapSpace(SearchSpace):
    r"""The gaps between computed steps, by breaking a stick; B - 1 numbers v in [0, 1].

    .. math:: k_{m+1} - k_m = 1 + (N - B) p_m, \qquad
        p_m = \Big(1 - \sum_{l<m} p_l\Big) \big(1 - (1 - v_m)^{1/(B-m)}\big), \quad m = 1 .. B-1

    rounded to distinct steps; the last gap is the rest of the stick. Uniform v give p uniform on
    the simplex, so no place of the run is preferred.

    References:
        L. Devroye, Non-Uniform Random Variate Generation (1986), section XI.4.

    Args:
        num_steps: N.
        budget: B.
    """

    num_steps: int
    budget: int

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {f"v{m}": (0.0, 1.0) for m in range(1, self.budget)}

    def schedule(self, point: Mapping[str, float]) -> Schedule:
        rest, step, steps = float(self.num_steps - self.budget), 0.0, [0.0]
        for m, name in enumerate(self.limits, 1):
            part = rest * (1.0 - (1.0 - point[name]) ** (1.0 / (self.budget - m)))
            rest, step = rest - part, step + 1.0 + part
            steps.append(step)
        return _rounded(steps, self.num_steps)

    def nearest(self, schedule: Schedule) -> dict[str, float]:
        rest, point = float(self.num_steps - self.budget), {}
        for m, (name, gap) in enumerate(
            zip(self.limits, np.diff(schedule.computed).tolist(), strict=True), 1
        ):
            part = (gap - 1.0) / rest if rest else 0.0
            point[name] = 1.0 - (1.0 - part) ** (self.budget - m)
            rest -= gap - 1.0
        return point


@final
@dataclass(frozen=True)
class IntegerSpace(SearchSpace):
    """The computed steps themselves: B - 1 integers in 1 .. N-1, in any order.

    Equal integers are moved apart, to the distinct steps nearest to them.

    Args:
        num_steps: N.
        budget: B.
    """

    num_steps: int
    budget: int

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {f"k{m}": (1, self.num_steps - 1) for m in range(2, self.budget + 1)}

    def schedule(self, point: Mapping[str, float]) -> Schedule:
        return _rounded([0, *sorted(point[name] for name in self.limits)], self.num_steps)

    def nearest(self, schedule: Schedule) -> dict[str, float]:
        return dict(zip(self.limits, schedule.computed[1:], strict=True))


def _rounded(steps: Sequence[float], num_steps: int) -> Schedule:
    targets = np.array(steps) / num_steps
    return Schedule(num_steps=num_steps, computed=round_to_steps(targets, num_steps))
