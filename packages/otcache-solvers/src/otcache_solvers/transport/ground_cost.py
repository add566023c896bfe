"""What it costs to move computation from one step to another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from otcache_core import Need, OtcacheError, Schedule, ScheduleProblem
from otcache_core.errors import expected
from otcache_solvers.costs.forecast import check_array
from otcache_solvers.needs import ENDPOINTS, gram_of, grid_of

#: A name of :data:`GROUND_COSTS`, or C itself.
GroundCost = str | Floats


def _step(problem: ScheduleProblem) -> Floats:
    index = np.arange(problem.num_steps) / problem.num_steps
    return np.asarray(np.square(index[:, None] - index), dtype=np.float64)


def _noise(problem: ScheduleProblem) -> Floats:
    grid = grid_of(problem, "ground cost 'noise'")
    check_array("grid", grid, (problem.num_steps + 1,))
    s = grid[:-1] / (float(np.ptp(grid)) or 1.0)
    return np.asarray(np.square(s[:, None] - s))


def _trajectory(problem: ScheduleProblem) -> Floats:
    gram = gram_of(problem, "ground cost 'trajectory'")
    check_array("gram", gram, (problem.num_steps, problem.num_steps))
    square = np.diagonal(gram)
    moved = np.maximum(square[:, None] + square - (gram + gram.T), 0.0)
    return np.asarray(moved / (moved.max() or 1.0))


#: Name to what it needs beside the two schedules, and to C.
GROUND_COSTS: dict[str, tuple[frozenset[Need], Callable[[ScheduleProblem], Floats]]] = {
    "step": (frozenset(), _step),
    "noise": (frozenset({Need.GRID}), _noise),
    "trajectory": (frozenset({Need.GRAM}), _trajectory),
}


def ground_cost(cost: GroundCost, problem: ScheduleProblem) -> Floats:
    r"""C[a, b], the cost of moving computation from step a to step b; shape (N, N).

    .. math:: C_{step} = \Big( \frac{a - b}{N} \Big)^2, \qquad
        C_{noise} = \Big( \frac{s_a - s_b}{\max s - \min s} \Big)^2, \qquad
        C_{trajectory} = \frac{E \| v_a - v_b \|^2}{\max_{a, b} E \| v_a - v_b \|^2}

    the last by the Gram matrix H of the outputs: E ||v_a - v_b||^2 = H_aa + H_bb - 2 H_ab.

    Args:
        cost: ``step``, ``noise`` (needs the problem's grid) or ``trajectory`` (needs its Gram), each at
            most 1; or C itself, finite, at least 0, with a zero diagonal.
        problem: N, and what was measured.

    Raises:
        OtcacheError: if the name is unknown, the problem lacks what it needs, nothing of it changes over
            the run, or a shape or value is wrong.

    Examples:
        >>> problem = ScheduleProblem(2, 1, grid=np.array([1.0, 0.25, 0.0]))
        >>> ground_cost("noise", problem)
        array([[0.    , 0.5625],
               [0.5625, 0.    ]])
    """
    check_ground_cost(cost)
    if not isinstance(cost, str):
        return _given(np.asarray(cost, dtype=np.float64), problem.num_steps)
    found = GROUND_COSTS[cost][1](problem)
    if problem.num_steps > 1 and not found.any():
        what = "the grid" if cost == "noise" else "the outputs"
        raise OtcacheError(
            f"ground cost {cost!r} must not be 0 everywhere, got {what} of a run that never changes: "
            "use cost='step'."
        )
    return found


def check_ground_cost(cost: GroundCost) -> None:
    """Raise OtcacheError if it is a name that there is not."""
    if isinstance(cost, str) and cost not in GROUND_COSTS:
        wanted = f"an array of shape (N, N) or one of {', '.join(GROUND_COSTS)}"
        raise OtcacheError(expected("cost", cost, wanted))


def needs_of(cost: GroundCost) -> frozenset[Need]:
    """What interpolation on this ground cost needs: two schedules, and what C is made of."""
    return ENDPOINTS | (GROUND_COSTS[cost][0] if isinstance(cost, str) else frozenset())


def between(cost: Floats, anchor: Schedule, reference: Schedule) -> Floats:
    """C between the computed steps of two schedules, shape (B_a, B_r)."""
    return np.asarray(cost[np.ix_(anchor.computed, reference.computed)], dtype=np.float64)


def _given(cost: Floats, num_steps: int) -> Floats:
    shape = (num_steps, num_steps)
    if cost.shape != shape:
        advice = "one row and one column for each of the N steps."
        raise OtcacheError(expected("ground cost", cost.shape, f"of shape {shape}", advice))
    if not np.isfinite(cost).all() or (cost < 0).any():
        raise OtcacheError(
            "ground cost must be finite and >= 0, got NaN, infinity or a negative entry: "
            "give moves that should not happen a large price instead."
        )
    if np.diagonal(cost).any():
        raise OtcacheError("ground cost must be 0 on the diagonal: staying costs nothing.")
    return cost
