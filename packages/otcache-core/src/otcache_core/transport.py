r"""Schedules as distributions on the timeline, the transport between two of them, and published tables.

.. math:: \mu_S = \frac1B \sum_m \delta_{k_m/N}, \qquad
    Q_\lambda = (1-\lambda)\, Q_{\mathrm{anchor}} + \lambda\, Q_{\mathrm{reference}}

In one dimension the W2 geodesic is linear in the quantile functions, so a schedule of any budget
between two others is read off Q_lambda and rounded to distinct steps (docs/theory.md, section 5).

References:
    OTCache, 2026, arXiv 2606.31026, for displacement interpolation of schedules; only its abstract
    is public, the construction here is this project's own.
    Villani, Topics in Optimal Transportation, 2003, theorem 2.18, for the quantile form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core.errors import ScheduleError, expected
from otcache_core.schedule import Schedule, check_budget
from otcache_core.storage.json_files import load_json, save_json

Quantile = Callable[[ArrayLike], NDArray[np.float64]]

#: Targets are rounded to this many decimals of a step, so that ties are ties in floating point too.
_DECIMALS = 9


def quantile_function(schedule: Schedule) -> Quantile:
    """Q_S: piecewise linear through ((m-1)/B, k_m/N), m = 1..B, and (1, 1); increasing.

    Args:
        schedule: computed steps k_1 .. k_B of N.

    Returns:
        A function of u in [0, 1], elementwise.

    Examples:
        >>> q = quantile_function(Schedule(num_steps=10, computed=(0, 1, 4, 6)))
        >>> q([0.0, 0.25, 0.375, 1.0]).tolist()
        [0.0, 0.1, 0.25, 1.0]
    """
    nodes = np.arange(schedule.budget + 1) / schedule.budget
    values = np.array([*schedule.computed, schedule.num_steps]) / schedule.num_steps

    def quantile(u: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(
            np.interp(np.asarray(u, dtype=np.float64), nodes, values), dtype=np.float64
        )

    return quantile


def uniform_steps(num_steps: int, budget: int) -> tuple[int, ...]:
    r"""B of N steps at equal gaps: k_m = \lfloor (m-1) N / B \rfloor, m = 1..B.

    Examples:
        >>> uniform_steps(10, 4)
        (0, 2, 5, 7)
    """
    return tuple(m * num_steps // budget for m in range(budget))


def levels(budget: int) -> NDArray[np.float64]:
    """Return the u at which a schedule of this budget reads a quantile function: (m-1)/B, m = 1..B."""
    return np.arange(budget) / budget


def round_to_steps(
    targets: Sequence[float] | NDArray[np.float64], num_steps: int
) -> tuple[int, ...]:
    r"""Distinct steps nearest to fractional targets, exactly.

    .. math:: \min \sum_m (k_m - N Q_m)^2 \quad \text{over} \quad 0 = k_1 < k_2 < \dots < k_B < N

    as the isotonic regression of N Q_m - m by whole numbers: neighbours that want to be in the wrong
    order share the value that is best for all of them, in O(B). Ties go to the smaller step, the
    earliest m first.

    References:
        Best, Chakravarti, Ubhaya, Minimizing Separable Convex Functions Subject to Simple Chain
        Constraints, 2000, for pooling adjacent violators with convex functions of whole numbers.

    Args:
        targets: Q_1 .. Q_B in units of the whole run (1 is N); 1 to N of them. Any finite value.
        num_steps: N.

    Raises:
        ScheduleError: if there are no targets or more than N, or one is not finite.

    Examples:
        >>> round_to_steps([0.0, 0.05, 0.07, 0.5], num_steps=10)
        (0, 1, 2, 5)
    """
    check_budget(len(targets), num_steps)
    positions = np.round(np.asarray(targets, dtype=np.float64) * num_steps, _DECIMALS)
    if not np.isfinite(positions).all():
        raise ScheduleError(expected("targets", list(targets), "finite"))
    nearest = np.clip(np.ceil(positions - 0.5), 0, num_steps - 1).astype(int)
    if nearest[0] == 0 and (np.diff(nearest) > 0).all():
        return tuple(nearest.tolist())  # each is as near as it can be
    free = positions[1:] - np.arange(
        1, len(positions)
    )  # k_m - m may be any numbers that never fall
    rest = np.clip(_isotonic(free.tolist()), 0, num_steps - len(positions))
    return (0, *(rest + np.arange(1, len(positions))).tolist())


def _isotonic(wanted: list[float]) -> list[int]:
    """Return the smallest whole numbers that never fall and are nearest to the given ones, by squares."""
    blocks: list[tuple[int, float, int]] = []  # value, sum and length of numbers that share a value
    for want in wanted:
        total, length = want, 1
        value = _down(want)
        while blocks and blocks[-1][0] > value:
            _, before, others = blocks.pop()
            total, length = total + before, length + others
            value = _down(total / length)
        blocks.append((value, total, length))
    return [value for value, _, length in blocks for _ in range(length)]


def _down(value: float) -> int:
    """Return the nearest whole number; of two the smaller."""
    return math.ceil(value - 0.5 - 0.1**_DECIMALS)


def coordinate(budget: float, anchor_budget: int, reference_budget: int) -> float:
    """Return lam = (1/B_a - 1/B) / (1/B_a - 1/B_r), clamped to [0, 1].

    Linear in the ideal cost 1/B; B need not be a whole number. For B_a = B_r it is 0 up to that
    budget and 1 above.
    """
    if anchor_budget == reference_budget:
        return float(budget > anchor_budget)
    lam = (1 / anchor_budget - 1 / budget) / (1 / anchor_budget - 1 / reference_budget)
    return min(1.0, max(0.0, lam))


def interpolate(
    anchor: Schedule, reference: Schedule, budget: int, lam: float | None = None
) -> Schedule:
    """Interpolate two schedules at any budget, by displacement.

    Properties: at the budgets of anchor and reference (lam 0 and 1) they are returned, exactly; B = 1 is
    {0}; B = N is everything; the steps are distinct and increasing for every B. Outside the two
    budgets lam is clamped and the nearer schedule's warp is read at B levels.

    Args:
        anchor: schedule at an extreme budget.
        reference: schedule at a conservative budget, of the same N.
        budget: B, in 1..N.
        lam: place between the two, in [0, 1]; from the budgets by default (:func:`coordinate`).

    Returns:
        The computed steps, forecast by reuse (weights are interpolated by
        :class:`~otcache_core.policy.Policy`); anchor or reference itself at its own budget.

    Raises:
        ScheduleError: if the budget or lam is out of range, or the step counts differ.
    """
    if lam is None:
        lam = coordinate(budget, anchor.budget, reference.budget)
    targets = targets_between(anchor, reference, budget, lam)
    for end, schedule in ((0.0, anchor), (1.0, reference)):
        if lam == end and budget == schedule.budget:
            return schedule
    steps = round_to_steps(targets, anchor.num_steps)
    return Schedule(num_steps=anchor.num_steps, computed=steps)


def targets_between(
    anchor: Schedule, reference: Schedule, budget: int, lam: float | None = None
) -> NDArray[np.float64]:
    """Compute Q_lambda at B levels, which :func:`interpolate` rounds to steps.

    Args:
        anchor: schedule at an extreme budget.
        reference: schedule at a conservative budget, of the same N.
        budget: B, in 1..N.
        lam: place between the two, in [0, 1]; from the budgets by default (:func:`coordinate`).

    Returns:
        Shape (B,), in units of the whole run (1 is N); the first is 0.

    Raises:
        ScheduleError: if the budget or lam is out of range, or the step counts differ.
    """
    num_steps = anchor.num_steps
    if reference.num_steps != num_steps:
        raise ScheduleError(expected("reference.num_steps", reference.num_steps, f"{num_steps}"))
    check_budget(budget, num_steps)
    if lam is None:
        lam = coordinate(budget, anchor.budget, reference.budget)
    if not 0.0 <= lam <= 1.0:
        raise ScheduleError(expected("lam", lam, "between 0 and 1"))
    u = levels(budget)
    q = (1.0 - lam) * quantile_function(anchor)(u) + lam * quantile_function(reference)(u)
    return np.asarray(q, dtype=np.float64)


#: 2^MOST choices are looked at, at most.
MOST = 12


def roundings(anchor: Schedule, reference: Schedule, budget: int, limit: int) -> list[Schedule]:
    r"""Interpolate two schedules in up to ``limit`` roundings, nearest first.

    .. math:: k_m \in \{\lfloor N Q_m \rfloor, \lfloor N Q_m \rfloor + 1\}, \quad
        0 = k_1 < \dots < k_B < N, \qquad \text{by } \sum_m (k_m - N Q_m)^2

    If few steps are computed, half a step more or less matters as much as the choice between solvers, and
    only a run shows which way is better: the distance to the targets does not.

    Args:
        anchor: schedule at an extreme budget.
        reference: schedule at a conservative budget, of the same N.
        budget: B, in 1..N.
        limit: at most so many, in 1..12.

    Returns:
        Distinct schedules, forecast by reuse; the first is
        :func:`otcache_core.transport.interpolate`'s. At the budgets of anchor and reference that one
        alone, since nothing is rounded there.

    Raises:
        ScheduleError: if a number is out of range, or the step counts differ.

    Examples:
        >>> anchor, reference = Schedule(16, (0, 12)), Schedule(16, (0, 5, 10, 13, 15))
        >>> [s.computed for s in roundings(anchor, reference, 3, limit=2)]
        [(0, 8, 14), (0, 8, 13)]
    """
    if not 1 <= limit <= MOST:
        raise ScheduleError(expected("limit", limit, f"between 1 and {MOST}"))
    n, nearest = anchor.num_steps, interpolate(anchor, reference, budget)
    if budget in (anchor.budget, reference.budget):
        return [nearest]
    positions = n * targets_between(anchor, reference, budget)
    others = [steps for steps in _around(positions[1:], n, limit) if steps != nearest.computed]
    return [nearest, *(Schedule(n, steps) for steps in others[: limit - 1])]


def _around(positions: NDArray[np.float64], num_steps: int, limit: int) -> list[tuple[int, ...]]:
    """Feasible roundings of k_2 .. k_B, by distance (to nine decimals), then by steps.

    Only the ``limit`` targets that lose least by the other neighbour are turned: among the nearest
    ``limit`` roundings of independent targets no other one is.
    """
    low = np.floor(positions).astype(int)
    near = low + (positions - low > 0.5)
    far = 2 * low + 1 - near
    loss = (far - positions) ** 2 - (near - positions) ** 2
    turned = np.argsort(loss, kind="stable")[:limit]
    found = []
    for choice in product((False, True), repeat=len(turned)):
        which = turned[list(choice)]
        steps = near.copy()
        steps[which] = far[which]
        full = (0, *map(int, steps))
        if full[-1] < num_steps and all(a < b for a, b in pairwise(full)):
            found.append((round(float(loss[which].sum()), 9), full))
    return [steps for _, steps in sorted(found)]


FORMAT, VERSION = "otcache-table", 1


class ScheduleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Schedules of one model at one step count, a few budgets of it; output reuse between their steps.

    Args:
        name: of the table.
        source: its publication and authors.
        num_steps: N.
        rows: computed steps of each budget, rising in budget.
        model: that it was made for.
        pipelines: class names of diffusers pipelines of that model.
        parameters: of the denoiser, if one class of pipelines has several tables; else 0.

    Raises:
        ScheduleError: if a row is not a schedule, two have the same budget, or ``parameters`` are negative.

    Examples:
        >>> table = ScheduleTable("mine", "by hand", 10, ((0, 5), (0, 2, 4, 7)))
        >>> table.budgets, table.schedule(4).computed
        ((2, 4), (0, 2, 4, 7))
    """

    name: str
    source: str
    num_steps: int
    rows: tuple[tuple[int, ...], ...]
    model: str = ""
    pipelines: tuple[str, ...] = ()
    parameters: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.parameters < math.inf:
            wanted = "a finite number of at least 0"
            raise ScheduleError(expected("parameters", self.parameters, wanted))
        budgets = [Schedule(self.num_steps, row).budget for row in self.rows]
        if not budgets or budgets != sorted(set(budgets)):
            raise ScheduleError(expected("budgets of rows", budgets, "distinct and rising"))

    @property
    def budgets(self) -> tuple[int, ...]:
        """B of each row."""
        return tuple(len(row) for row in self.rows)

    def schedule(self, budget: int) -> Schedule:
        """Return a row as it was published.

        Raises:
            ScheduleError: if there is none of this budget.
        """
        if budget not in self.budgets:
            among = f"one of {', '.join(map(str, self.budgets))} in the table {self.name!r}"
            raise ScheduleError(expected("budget", budget, among))
        return Schedule(self.num_steps, self.rows[self.budgets.index(budget)])

    def resampled(self, budget: int, num_steps: int) -> Schedule:
        """Resample the table to any budget and step count; a row itself if it fits.

        Of the rows the one nearest in B/N is read as a warp (:func:`quantile_function`) and sampled at the
        new N and B.

        Args:
            budget: B, in 1..N.
            num_steps: N.

        Raises:
            ScheduleError: if the budget is out of range.
        """
        share = check_budget(budget, num_steps) / num_steps
        row = min(self.rows, key=lambda steps: abs(len(steps) / self.num_steps - share))
        warp = quantile_function(Schedule(self.num_steps, row))
        return Schedule(num_steps, round_to_steps(warp(levels(budget)), num_steps))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically.

        Raises:
            FileError: if the file cannot be written.
        """
        save_json(path, FORMAT, VERSION, self)

    @classmethod
    def load(cls, path: str | Path) -> ScheduleTable:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: naming file, field, got and expected.
        """
        return load_json(path, FORMAT, VERSION, cls)
