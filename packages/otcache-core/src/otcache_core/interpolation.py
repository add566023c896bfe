"""Schedules at any budget, step count and grid, interpolated between those of a few budgets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import ScheduleError, expected
from otcache_core.forecasters.strength import StrengthTable, resampled_weights
from otcache_core.numbers import integer, reals
from otcache_core.schedule import MAX_STEPS, Schedule
from otcache_core.transport import (
    coordinate,
    levels,
    quantile_function,
    round_to_steps,
    targets_between,
    uniform_steps,
)
from otcache_core.uncalibrated import FLOW_FORECASTER, default_schedule
from otcache_core.uncalibrated import FORECASTERS as UNCALIBRATED

#: Forecasters that are described by strengths.
WITH_STRENGTH = {"linear", "fitted"}
#: On a run of more steps than the policy's, budgets of at least this share of them are read by share.
BY_SHARE = 0.25
#: Schedules of one policy that are kept.
CACHED = 1024


class _Place(msgspec.Struct, frozen=True):
    """Where a budget lies: lam of the way from one node to the next."""

    lower: Schedule
    upper: Schedule
    lam: float

    @property
    def skipping(self) -> list[Schedule]:
        """The ends that skip a step: for one that skips none every rule is right."""
        ends = [self.lower] if self.lower is self.upper else [self.lower, self.upper]
        return [s for s in ends if s.budget < s.num_steps]

    @property
    def rule(self) -> str:
        """The forecaster used here: that of both ends, else strengths, else reuse.

        Linear forecasts are of strength 1, so between them and fitted ones strengths are interpolated.
        Reuse is not of strength 0 in this sense: it wins a rung where forecasts fail on samples that the
        fit has not seen, and at which budget they begin to fail was not measured. So next to a node that
        reuses outputs this is reuse. Forecasts of variable order have no strengths either, but need
        none: next to them, strengths give way to them. Between two other rules, of which one has no
        strengths, it is reuse.
        """
        rules = {s.forecaster for s in self.skipping} or {"reuse"}
        if len(rules) == 1:
            return rules.pop()
        if rules <= WITH_STRENGTH:
            return "fitted"
        own = [name for name in UNCALIBRATED if name in rules]
        return own[0] if own and rules <= WITH_STRENGTH.union(UNCALIBRATED) else "reuse"

    @property
    def uniform(self) -> bool:
        """Whether the steps here are uniform: reuse is the rule, and a node that is not fitted has them."""
        return self.rule == "reuse" and any(
            s.forecaster != "fitted" and s.computed == uniform_steps(s.num_steps, s.budget)
            for s in self.skipping
        )


class Interpolation:
    r"""Schedules of any budget, step count and grid, from those of a few budgets.

    .. math:: k_m \approx Q_{\lambda(B')}\big((m-1)/B\big), \qquad
        B' = B N / n \text{ if } n > N \text{ and } B \ge n/4, \text{ else } \min(B, N)

    Between two nodes the steps are those of their transport (:mod:`otcache_core.transport`). On a run of n
    steps the warp at the budget B' is read at B levels, without rounding it to the nodes' own steps first,
    resampled by noise level (by position if a grid is unknown) and rounded there. Strengths are those
    of B' too. At small budgets the places of steps depend on their number, so B' = B; on a longer run of
    which many steps are computed they depend on their share. On a shorter run they depend on the number at
    any budget (docs/transfer.md). If the steps at B' are uniform, they are the run's own uniform steps, B
    of n; and if a node is the schedule without calibration, that of the run.

    The same call gives the same object.

    Args:
        nodes: schedules of N steps at distinct budgets, lowest budget first; at least one.
        grid: s_0 .. s_N; empty if it is unknown.
    """

    def __init__(self, nodes: Sequence[Schedule], grid: tuple[float, ...]) -> None:
        self._nodes, self._num_steps = nodes, nodes[0].num_steps
        self._known = bool(grid)
        self._grid = np.array(grid or (1.0, 0.0))
        self.at = lru_cache(CACHED)(self._at)
        self.mapped = lru_cache(CACHED)(self._mapped)

    def _at(self, budget: int) -> Schedule:
        """Return the schedule of a budget in 1..N, on the nodes' own grid."""
        n, place = self._num_steps, self._place(budget)
        if budget == n:
            return Schedule.full(n)
        if budget == 1:
            return place.lower if place.lower.budget == 1 else Schedule(num_steps=n, computed=(0,))
        if budget == place.lower.budget:
            return place.lower
        if (plain := self._plain(place, budget, n, self._own_points)) is not None:
            return plain
        targets = targets_between(place.lower, place.upper, budget, place.lam)
        return self._forecast(place, round_to_steps(targets, n), self._points(n))

    def _mapped(self, budget: int, n: int, points: tuple[float, ...] = ()) -> Schedule:
        """Return the schedule of a budget in 1..n on n steps, at the noise levels s_0 .. s_n if given."""
        if budget == n:
            return Schedule.full(n)
        place = self._place(_own_budget(budget, self._num_steps, n))
        if (plain := self._plain(place, budget, n, points)) is not None:
            return plain
        u = levels(budget)
        low, high = (quantile_function(s)(u) for s in (place.lower, place.upper))
        targets = (1.0 - place.lam) * low + place.lam * high
        if points and self._known:
            at = np.linspace(0.0, 1.0, len(self._grid))
            targets = _index_of(np.interp(targets, at, self._grid), np.array(points))
        steps = round_to_steps(targets, n)
        if budget == 1:
            return Schedule(num_steps=n, computed=steps)
        return self._forecast(place, steps, np.array(points) if points else self._points(n))

    def on(self, steps: tuple[int, ...]) -> Schedule:
        """Give steps that another method chose the forecast that holds at their budget.

        That of the node if these are its steps; else by name, or by the strengths of the nodes around, as
        between nodes.

        Args:
            steps: the B computed ones of N, for 1 <= B <= N.
        """
        own = self.at(len(steps))
        if own.computed == steps:
            return own
        n = self._num_steps
        if len(steps) in (1, n):
            return Schedule(n, steps)
        return self._forecast(self._place(len(steps)), steps, self._points(n))

    def ends(self, budget: int) -> tuple[Schedule, Schedule] | None:
        """Return the nodes between which the steps of a budget are interpolated, the smaller budget first.

        None if they are not: on a node, beyond the lowest and the highest one, at 1 and N, and if the
        steps are uniform, or those without calibration.
        """
        place, n = self._place(budget), self._num_steps
        on_node = place.lower.budget == place.upper.budget
        if budget in (1, n) or on_node or self._plain(place, budget, n, self._own_points):
            return None
        return place.lower, place.upper

    def _place(self, budget: float) -> _Place:
        below = [s for s in self._nodes if s.budget <= budget]
        above = [s for s in self._nodes if s.budget >= budget]
        lower, upper = (below or above[:1])[-1], (above or below[-1:])[0]
        if lower.budget == upper.budget:
            return _Place(lower, upper, 0.0)
        return _Place(lower, upper, coordinate(budget, lower.budget, upper.budget))

    def _plain(
        self, place: _Place, budget: int, n: int, points: tuple[float, ...]
    ) -> Schedule | None:
        """Return uniform reuse, or the schedule without calibration, if that is what a node is."""
        if place.uniform:
            return Schedule(n, uniform_steps(n, budget))
        if place.rule in UNCALIBRATED and any(map(self._is_default, place.skipping)):
            return default_schedule(n, budget, points, _prediction(place.rule))
        return None

    def _is_default(self, node: Schedule) -> bool:
        own = self._own_points, _prediction(node.forecaster)
        return node == default_schedule(node.num_steps, node.budget, *own)

    @property
    def _own_points(self) -> tuple[float, ...]:
        """s_0 .. s_N of the nodes; empty if they are not known."""
        return tuple(self._grid.tolist()) if self._known else ()

    def _forecast(
        self, place: _Place, steps: tuple[int, ...], grid: NDArray[np.float64]
    ) -> Schedule:
        """Give steps the forecaster that holds: by name, or by the strengths of both ends.

        What other forecasters store in the weights belongs to the spans of their own schedule and is not
        resampled.
        """
        n, rule = len(grid) - 1, place.rule
        if rule != "fitted":
            return Schedule(n, steps, rule)
        ends = place.skipping
        names = sorted({name for s in ends for name, _ in s.branch_weights})
        own, branches = self._points(self._num_steps), (None, *names)
        low = StrengthTable.of(ends[0], own, branches)
        high = low if ends[-1] is ends[0] else StrengthTable.of(ends[-1], own, branches)
        shared, *others = resampled_weights(steps, grid, (low, high), place.lam)
        return Schedule(n, steps, "fitted", shared, (), tuple(zip(names, others, strict=True)))

    def _points(self, n: int) -> NDArray[np.float64]:
        """Return the grid read at n + 1 points; 1 - i/n if it is unknown."""
        own = self._grid
        if len(own) == n + 1:
            return own
        points = np.interp(np.linspace(0.0, 1.0, n + 1), np.linspace(0.0, 1.0, len(own)), own)
        return np.asarray(points, dtype=np.float64)


def _prediction(forecaster: str) -> str:
    return "flow" if forecaster == FLOW_FORECASTER else ""


def _own_budget(budget: int, own: int, n: int) -> float:
    """Return B', the budget of the policy's own run that represents one of a run of n steps."""
    if n > own and budget >= BY_SHARE * n:
        return budget * own / n
    return min(budget, own)


def _index_of(sigmas: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fractional place i/N at which a monotone grid passes each noise level."""
    place = np.linspace(0.0, 1.0, len(grid))
    sign = 1.0 if grid[-1] >= grid[0] else -1.0
    return np.asarray(np.interp(sign * sigmas, sign * grid, place), dtype=np.float64)


def run_of(
    num_steps: int | None, grid: object, default: int | None = None
) -> tuple[int, tuple[float, ...]]:
    """Return N and s_0 .. s_N of a run, the latter empty if no grid is given.

    Args:
        num_steps: N; None: that of the grid.
        grid: N + 1 finite numbers of any kind; None: not known.
        default: N if neither is given.

    Raises:
        ScheduleError: if the step count is not an integer in range, or the grid not N + 1 finite numbers.
    """
    n = default
    if num_steps is not None:
        n = integer("num_steps", num_steps, 1, MAX_STEPS, kind=ScheduleError)
    if grid is None:
        assert n is not None
        return n, ()
    points = tuple(reals("grid", grid, kind=ScheduleError))
    if len(points) < 2 or (num_steps is not None and len(points) - 1 != n):
        wanted = "N + 1 values" if num_steps is None else f"{num_steps + 1} values"
        raise ScheduleError(expected("grid", f"{len(points)} values", wanted, "s_0 .. s_N."))
    if not np.isfinite(points).all():
        raise ScheduleError(expected("grid", points, "finite"))
    return len(points) - 1, points


def check_monotone(points: tuple[float, ...]) -> None:
    """Check that a grid only falls or only rises, so that noise levels can be found in it.

    Raises:
        ScheduleError: if it does neither.
    """
    steps = np.diff(points)
    if not ((steps >= 0).all() or (steps <= 0).all()):
        turn = int(np.flatnonzero(steps * steps[steps.nonzero()[0][0]] < 0)[0])
        got = f"{points[turn]:.4g} before {points[turn + 1]:.4g} at step {turn}"
        raise ScheduleError(expected("grid", got, "monotone"))


def rises(points: tuple[float, ...]) -> bool:
    """Whether a monotone grid rises."""
    return points[-1] > points[0]


def checked_grid(grid: object, num_steps: int | None) -> tuple[float, ...]:
    """Return the grid as s_0 .. s_N, N + 1 finite values that only fall or only rise.

    Raises:
        ScheduleError: if it is not.
    """
    points = run_of(num_steps, grid)[1]
    check_monotone(points)
    return points
