"""The nearest ways to round the targets of an interpolated schedule to steps."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import ScheduleError, expected
from otcache_core.schedule import Schedule
from otcache_core.warp import interpolate, targets_between

#: 2^MOST choices are looked at, at most.
MOST = 12


def roundings(anchor: Schedule, reference: Schedule, budget: int, limit: int) -> list[Schedule]:
    r"""The interpolation of two schedules in up to ``limit`` roundings, nearest first.

    .. math:: k_m \in \{\lfloor N Q_m \rfloor, \lfloor N Q_m \rfloor + 1\}, \quad
        0 = k_1 < \dots < k_B < N, \qquad \text{by } \sum_m (k_m - N Q_m)^2

    Where few steps are computed, half a step more or less matters as much as the choice between
    solvers, and the distance to the targets does not tell which way is better: a run does.

    Args:
        anchor: schedule at an extreme budget.
        reference: schedule at a conservative budget, of the same N.
        budget: B, in 1..N.
        limit: at most so many, in 1..12.

    Returns:
        Distinct schedules, forecast by reuse; the first is
        :func:`otcache_core.warp.interpolate`'s. At the budgets of anchor and reference that one
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
