"""A policy: a schedule for every budget, and the facts that bind it to a pipeline."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import MismatchError, OtcacheNotice, ScheduleError, expected
from otcache_core.files import load_json, save_json
from otcache_core.forecasters.strength import StrengthCurve, blend, weights_from_strengths
from otcache_core.provenance import Provenance, same_grid
from otcache_core.schedule import Schedule, check_budget
from otcache_core.warp import coordinate, interpolate, levels, round_to_steps

__all__ = ["Policy", "Provenance"]

FORMAT, VERSION = "otcache-policy", 1


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    r"""Schedules at a few budgets, and by transport between them at every other.

    The nodes are the rungs of the ladder, and anchor and reference where the ladder has no rung of
    their budget. On a node the schedule is the node. Between two neighbours both parts are
    interpolated with lam = (1/B_a - 1/B)/(1/B_a - 1/B_r): the steps by displacement
    (:mod:`otcache_core.warp`), the forecast weights by their strengths theta
    (:mod:`otcache_core.forecasters.strength`). Beyond the lowest and the highest node lam is
    clamped. B = 1 is {0} by reuse, B = N computes everything. Steps that single branches skip in
    addition are kept on the nodes only.

    Args:
        anchor: schedule at an extreme budget.
        reference: schedule at a conservative budget.
        provenance: where they come from; gives N and the grid.
        ladder: fitted schedules of distinct budgets, lowest first.
        geometry: the ground coordinate of the transport; ``index`` is i/N.
        certificate: what is proven about the reference, in words.

    Raises:
        OtcacheError: if step counts or the order of the ladder disagree.
    """

    anchor: Schedule
    reference: Schedule
    provenance: Provenance
    ladder: tuple[Schedule, ...] = ()
    geometry: str = "index"
    certificate: str = ""

    def __post_init__(self) -> None:
        n = self.provenance.num_steps
        parts = {"anchor": self.anchor, "reference": self.reference}
        parts |= {f"ladder[{r}]": rung for r, rung in enumerate(self.ladder)}
        for name, schedule in parts.items():
            if schedule.num_steps != n:
                raise ScheduleError(expected(f"{name}.num_steps", schedule.num_steps, str(n)))
        budgets = [rung.budget for rung in self.ladder]
        if budgets != sorted(set(budgets)):
            raise ScheduleError(expected("ladder budgets", budgets, "distinct and increasing"))
        if self.geometry != "index":
            raise ScheduleError(expected("geometry", self.geometry, "'index'"))

    @property
    def num_steps(self) -> int:
        """N."""
        return self.provenance.num_steps

    def schedule(
        self,
        budget: int,
        num_steps: int | None = None,
        grid: Sequence[float] | NDArray[np.float64] | None = None,
        *,
        strict: bool = False,
    ) -> Schedule:
        """The schedule of a budget; the same call gives the same object, in well under 1 ms.

        Args:
            budget: B, in 1..N.
            num_steps: N of the run, the policy's by default (or as the grid says).
            grid: s_0 .. s_N of the run, N + 1 values; the policy's by default. Computed steps are
                carried over by noise level where both grids are known, else by position.
            strict: refuse another step count or grid instead of mapping with a notice.

        Raises:
            ScheduleError: if the budget is not an integer in 1..N, or the grid is no grid.
            MismatchError: under strict, if step count or grid are not the policy's.
        """
        own = self.provenance.grid
        points = None if grid is None else _checked_grid(grid, num_steps)
        n = len(points) - 1 if points else (num_steps or self.num_steps)
        check_budget(budget, n)
        if n == self.num_steps and (not points or not own or same_grid(points, own)):
            return _at(self, budget)
        difference = (
            f"the run has {n} steps on its own grid, the policy {self.num_steps} on its own"
        )
        if n != self.num_steps:
            difference = f"the run has {n} steps, the policy was measured on {self.num_steps}"
        if strict:
            raise MismatchError(f"{difference}: calibrate again, or leave strict off to map it.")
        warnings.warn(f"{difference}: the schedule is mapped.", OtcacheNotice, stacklevel=2)
        return _mapped(self, budget, n, points)

    def check(self, provenance: Mapping[str, Any], strict: bool = False) -> list[str]:
        """Compare with the pipeline at hand: see :meth:`Provenance.check`.

        Raises:
            MismatchError: if the model or prediction type differs; under strict for any difference.
        """
        return self.provenance.check(provenance, strict)

    def save(self, path: str | Path) -> None:
        """Write the policy file, whole or not at all.

        Raises:
            FileError: if it cannot be written.
        """
        save_json(path, FORMAT, VERSION, self)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file.

        Raises:
            FileError: if it is missing, truncated, of another version or holds a bad value.
        """
        return load_json(path, FORMAT, VERSION, cls)


class _Place(msgspec.Struct, frozen=True):
    """Where a budget lies: lam of the way from one node to the next."""

    lower: Schedule
    upper: Schedule
    lam: float


def _nodes(policy: Policy) -> list[Schedule]:
    by_budget = {s.budget: s for s in (policy.reference, policy.anchor, *policy.ladder)}
    return [by_budget[b] for b in sorted(by_budget)]


def _place(policy: Policy, budget: int) -> _Place:
    nodes = _nodes(policy)
    below = [s for s in nodes if s.budget <= budget]
    above = [s for s in nodes if s.budget >= budget]
    lower, upper = (below or above[:1])[-1], (above or below[-1:])[0]
    if lower.budget == upper.budget:
        return _Place(lower, upper, 0.0)
    return _Place(lower, upper, coordinate(budget, lower.budget, upper.budget))


@functools.lru_cache(maxsize=1024)
def _at(policy: Policy, budget: int) -> Schedule:
    n = policy.num_steps
    place = _place(policy, budget)
    if budget == n:
        return Schedule.full(n)
    if budget == 1:
        return place.lower if place.lower.budget == 1 else Schedule(num_steps=n, computed=(0,))
    if budget == place.lower.budget:
        return place.lower
    steps = interpolate(place.lower, place.upper, budget, place.lam)
    plain = msgspec.structs.replace(steps, weights=(), branches=(), forecaster="reuse")
    return _forecast(policy, place, plain, _grid(policy, n))


@functools.lru_cache(maxsize=1024)
def _mapped(policy: Policy, budget: int, n: int, points: tuple[float, ...] | None) -> Schedule:
    if budget == n:
        return Schedule.full(n)
    own = policy.num_steps
    positions = (
        np.array(_at(policy, budget).computed, dtype=np.float64)
        if budget <= own
        else levels(budget) * own
    )
    old = np.array(policy.provenance.grid)
    if points and len(old):
        targets = _index_of(np.interp(positions, np.arange(own + 1), old), np.array(points))
    else:
        targets = positions / own
    steps = Schedule(num_steps=n, computed=round_to_steps(targets, n))
    if budget == 1:
        return steps
    new = np.array(points) if points else _grid(policy, n)
    return _forecast(policy, _place(policy, min(budget, own)), steps, new)


def _forecast(
    policy: Policy, place: _Place, steps: Schedule, grid: NDArray[np.float64]
) -> Schedule:
    """Give steps the forecaster of both neighbours: by name where it stores no weights."""
    ends = (place.lower, place.upper)
    names = {s.forecaster for s in ends}
    if len(names) == 1 and not any(s.weights for s in ends):
        return msgspec.structs.replace(steps, forecaster=names.pop())
    own = _grid(policy, policy.num_steps)
    lower, upper = (StrengthCurve.of(s, own) for s in ends)
    curve = blend(lower, upper, place.lam)
    return weights_from_strengths(steps, curve, grid, max(lower.memory, upper.memory))


def _grid(policy: Policy, n: int) -> NDArray[np.float64]:
    """The policy's grid read at n + 1 points; 1 - i/N where it is unknown."""
    own = np.array(policy.provenance.grid or (1.0, 0.0))
    points = np.interp(np.linspace(0.0, 1.0, n + 1), np.linspace(0.0, 1.0, len(own)), own)
    return np.asarray(points, dtype=np.float64)


def _index_of(sigmas: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractional place i/N at which a monotone grid passes each noise level."""
    place = np.linspace(0.0, 1.0, len(grid))
    sign = 1.0 if grid[-1] >= grid[0] else -1.0
    return np.asarray(np.interp(sign * sigmas, sign * grid, place), dtype=np.float64)


def _checked_grid(
    grid: Sequence[float] | NDArray[np.float64], num_steps: int | None
) -> tuple[float, ...]:
    points = tuple(float(s) for s in grid)
    if len(points) < 2 or (num_steps is not None and len(points) != num_steps + 1):
        wanted = "N + 1 values" if num_steps is None else f"{num_steps + 1} values"
        raise ScheduleError(expected("grid", f"{len(points)} values", wanted, "s_0 .. s_N."))
    steps = np.diff(points)
    if not np.isfinite(steps).all() or not ((steps >= 0).all() or (steps <= 0).all()):
        raise ScheduleError(expected("grid", points, "finite and monotone"))
    return points
