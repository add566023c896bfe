"""From a ground cost and a coupling of two schedules to the schedule of any budget between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.errors import expected
from otcache_core.transport import levels, round_to_steps
from otcache_solvers.needs import ENDPOINTS, check_array, gram_of, grid_of

Floats = NDArray[np.float64]

#: Pairs below this share of the largest one carry no mass; levels nearer than that are the same.
SHARE, LEVEL = 1e-9, 1e-11


@final
@dataclass(frozen=True, eq=False)
class Geodesic:
    r"""The measures between two schedules that a coupling pi gives, and their schedules.

    .. math:: z_\lambda(a, b) = \arg\min_z\, (1-\lambda)\, C[a, z] + \lambda\, C[z, b], \qquad
        \pi_\lambda(a, b) = \pi(a, b) \Big( (1-\lambda) \frac{\mu(a)}{\sum_b \pi(a, b)}
        + \lambda \frac{\nu(b)}{\sum_a \pi(a, b)} \Big)

    The mass of pair (a, b) sits at z; it grows on the way from its share of mu(a) to its share of
    nu(b), which are the same where pi has the marginals mu and nu. A step that exchanges nothing
    fades in its place. So the total is linear in lam, and at 0 and 1 the measure is that of anchor
    and reference, exactly, whatever pi.

    *Why this continues* :mod:`otcache_core.transport`. The piecewise linear quantile function Q_S there
    is that of mass spread evenly over the span that a computed step serves. The same is done here:
    the pairs of a share its span in the order of b, those of b share its span in the order of a,
    and stretch moves to stretch. z is refined below a step by the parabola through the least value
    and its neighbours, which is exact for the squared distance. Hence with C = (a - b)^2 and
    the optimal coupling, Q here *is* (1-lam) Q_anchor + lam Q_reference. Ties of z go to the
    smaller step.

    Args:
        anchor: schedule with B_a computed steps.
        reference: schedule with B_r computed steps, of the same N.
        cost: C, shape (N, N), see :func:`~otcache_solvers.transport.geodesic.ground_cost`.
        pi: the coupling, shape (B_a, B_r), at least 0.
        masses: mu(a) and nu(b), the mass of every computed step of anchor and of reference.
    """

    anchor: Schedule
    reference: Schedule
    cost: Floats
    pi: Floats
    masses: tuple[float, float]

    def quantile(self, u: Floats, lam: float) -> Floats:
        """Compute Q_lam in steps (0 .. N) at levels u in [0, 1) of the total mass; right-continuous."""
        low, high, mass = (part.ravel() for part in self._stretches(lam))
        density = mass / (high - low)
        nodes = np.concatenate([low, high])
        order = np.argsort(nodes, kind="stable")
        nodes = nodes[order]
        slope = np.maximum(np.cumsum(np.concatenate([density, -density])[order])[:-1], 0.0)
        below = np.concatenate([[0.0], np.cumsum(slope * np.diff(nodes))])
        below /= below[-1]
        at = np.searchsorted(below, u + LEVEL, side="right") - 1
        at = np.minimum(at, len(nodes) - 2)
        share = (u - below[at]) / np.maximum(below[at + 1] - below[at], 1e-300)
        return np.asarray(nodes[at] + np.clip(share, 0.0, 1.0) * (nodes[at + 1] - nodes[at]))

    def solution(self, budget: int, lam: float) -> Solution:
        """Make the schedule at lam: anchor or reference itself (weights included) at its own place.

        Args:
            budget: B, in 1..N.
            lam: in [0, 1].
        """
        targets = self.quantile(levels(budget), lam)
        n = self.anchor.num_steps
        schedule = Schedule(num_steps=n, computed=round_to_steps(targets / n, n))
        for end, policy in ((0.0, self.anchor), (1.0, self.reference)):
            if lam == end and budget == policy.budget:
                schedule = policy
        gap = float(np.square(np.array(schedule.computed) - targets).sum())
        cost, moved = self.transport_cost, float(self.pi.sum())
        stats = {"lam": lam, "transport_cost": cost, "transported": moved}
        return Solution(schedule, gap, Result.OPTIMAL, gap, NEAREST, stats)

    @property
    def transport_cost(self) -> float:
        """The sum of pi(a, b) C[a, b]."""
        return float((self.pi * between(self.cost, self.anchor, self.reference)).sum())

    @cached_property
    def _pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        row, column = np.nonzero(self.pi > SHARE * max(self.pi.max(), np.finfo(float).tiny))
        return row, column

    def _stretches(self, lam: float) -> tuple[Floats, Floats, Floats]:
        """Compute from, to and mass of every pair's stretch at lam; then of the steps that fade."""
        row, column = self._pairs
        pi = np.zeros_like(self.pi)
        pi[row, column] = self.pi[row, column]
        rows, columns = pi.sum(1), pi.sum(0)
        (a, span_a), (b, span_b) = (_spans(s) for s in (self.anchor, self.reference))
        part_a = (pi / np.where(rows > 0, rows, 1.0)[:, None])[row, column]
        part_b = (pi / np.where(columns > 0, columns, 1.0))[row, column]
        to_a = (pi.cumsum(1) / np.where(rows > 0, rows, 1.0)[:, None])[row, column]
        to_b = (pi.cumsum(0) / np.where(columns > 0, columns, 1.0))[row, column]
        z = _between_steps(self.cost, a[row], b[column], lam)
        length_a, length_b = span_a[row], span_b[column]
        high = z + (1 - lam) * to_a * length_a + lam * to_b * length_b
        low = high - (1 - lam) * part_a * length_a - lam * part_b * length_b
        mu, nu = self.masses
        mass = (1 - lam) * mu * part_a + lam * nu * part_b
        idle_a, idle_b = rows == 0, columns == 0
        faded = np.concatenate([a[idle_a], b[idle_b]]).astype(np.float64)
        length = np.concatenate([span_a[idle_a], span_b[idle_b]])
        rest = np.repeat([(1 - lam) * mu, lam * nu], [idle_a.sum(), idle_b.sum()])
        return (
            np.concatenate([low, faded]),
            np.concatenate([high, faded + length]),
            np.concatenate([mass, rest]),
        )


NEAREST = "least sum of squared distances, in steps, to the interpolated quantile function"


def _spans(schedule: Schedule) -> tuple[NDArray[np.intp], Floats]:
    """Return the computed steps and how many steps each serves."""
    steps = np.array(schedule.computed, dtype=np.intp)
    return steps, np.diff([*schedule.computed, schedule.num_steps]).astype(np.float64)


def _between_steps(cost: Floats, a: NDArray[np.intp], b: NDArray[np.intp], lam: float) -> Floats:
    """Compute z_lam of every pair, as a fraction of a step."""
    n = len(cost)
    if lam in (0.0, 1.0) or n < 3:
        return np.asarray(a if lam < 0.5 else b, dtype=np.float64)
    total = (1 - lam) * cost[a] + lam * cost[:, b].T
    least = total.min(axis=1, keepdims=True)
    z = np.argmax(total <= least + 1e-12 * cost.max(), axis=1)
    middle = np.clip(z, 1, n - 2)
    at = np.arange(len(z))
    before, here, after = (total[at, middle + shift] for shift in (-1, 0, 1))
    bend = before - 2 * here + after
    vertex = middle + (before - after) / np.where(bend > 0, 2 * bend, 1.0)
    return np.asarray(np.where(bend > 1e-12 * cost.max(), np.clip(vertex, z - 0.5, z + 0.5), z))


@final
@dataclass(frozen=True, eq=False)
class Coupling:
    """A coupling by an iteration, and how good it is.

    Args:
        pi: the coupling, shape of C.
        residual: what the marginals lack, as a share of the mass; the solver states how it adds up.
        iterations: over all epsilons.
        epsilon: the one that ``pi`` is of, in the solver's unit.
        converged: whether ``residual`` is within the tolerance *at the last epsilon*. A coupling
            that met its marginals at an earlier one solves another, more blurred problem.
    """

    pi: NDArray[np.float64]
    residual: float
    iterations: int
    epsilon: float
    converged: bool


def with_convergence(solution: Solution, coupling: Coupling) -> Solution:
    """Add to a solution how its coupling was reached; unconverged, it certifies nothing."""
    stats = solution.stats | {
        "marginal_residual": coupling.residual,
        "iterations": coupling.iterations,
        "epsilon": coupling.epsilon,
    }
    if coupling.converged:
        return replace(solution, stats=stats)
    stats["advice"] = (
        f"The coupling did not converge: marginal residual {coupling.residual:.1e} at epsilon "
        f"{coupling.epsilon:.1e} after {coupling.iterations} iterations. "
        "Raise `max_iterations` or the last epsilon."
    )
    spent = Result.BUDGET_SPENT
    return replace(solution, result=spent, lower_bound=None, certificate="", stats=stats)


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
    r"""Compute C[a, b], the cost of moving computation from step a to step b; shape (N, N).

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
    """Return what interpolation on this ground cost needs: two schedules, and what C is made of."""
    return ENDPOINTS | (GROUND_COSTS[cost][0] if isinstance(cost, str) else frozenset())


def between(cost: Floats, anchor: Schedule, reference: Schedule) -> Floats:
    """Select C between the computed steps of two schedules, shape (B_a, B_r)."""
    return np.asarray(cost[np.ix_(anchor.computed, reference.computed)], dtype=np.float64)


def _given(cost: Floats, num_steps: int) -> Floats:
    shape = (num_steps, num_steps)
    if cost.shape != shape:
        advice = "one row and one column for each of the N steps."
        raise OtcacheError(expected("ground cost", cost.shape, f"of shape {shape}", advice))
    if not np.isfinite(cost).all() or (cost < 0).any():
        raise OtcacheError(
            "ground cost must be finite and >= 0, got NaN, infinity or a negative entry: "
            "give moves that should not happen a large cost instead."
        )
    if np.diagonal(cost).any():
        raise OtcacheError("ground cost must be 0 on the diagonal: staying costs nothing.")
    return cost
