"""The lexicographic minimax path: LeMiCa's rule, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Need, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_solvers.needs import costs_of

Ints = NDArray[np.intp]
LEAST_MAXIMUM = "least possible largest span cost of the problem's costs"


@final
class Lexicographic(ScheduleSolver):
    r"""Make the worst span as cheap as possible, then the second worst, and so on.

    One of the two proposals of the default recipe. Alone and with reuse, as LeMiCa has it, its error is
    above the default policy's at every budget of docs/quality.md.

    .. math:: \operatorname{lexmin}_{S}\; \operatorname{sort}_{\downarrow}
              \big( w(k_m \to k_{m+1}) \big)_{m=1}^{B}

    by a dynamic program: the label of (b, j) is the least sorted vector of a path of b spans from 0
    to j. For vectors x, y of equal length the m-th number of sort(x + (w,)) is

    .. math:: \max(x_m, \min(w, x_{m-1})), \qquad x_0 = \infty,\; x_{b+1} = -\infty

    Bellman's principle holds for this order although it is not additive: let x < y differ first at
    m. All numbers before m agree after w is inserted too. If w < y_m, the m-th still differs, in
    favour of x; else the m-th agree and x_m < y_m follow at m + 1. So inserting the same w keeps
    the strict order, and the best continuation of a prefix does not depend on how the prefix came
    to be.

    The same formula makes it fast: all candidates of a pass are compared number by number in numpy,
    and only those that still tie go on to the next one. Of equal labels the one that comes from the
    smallest step is kept.

    References:
        LeMiCa: Lexicographic Minimax Path Caching for Efficient Diffusion-Based Video Generation
        (2025), https://arxiv.org/abs/2511.00090

    Examples:
        >>> costs = np.triu(np.ones((4, 5)), k=2)
        >>> costs[0, 4] = 9.0
        >>> Lexicographic().solve(ScheduleProblem(4, 2, costs=costs)).objective
        1.0
    """

    abilities = Abilities(needs=frozenset({Need.COSTS}), exact=True, all_budgets=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """The best schedule of the problem's budget.

        Raises:
            OtcacheError: if the problem has no costs.
        """
        return self.frontier(problem)[-1]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """The best schedules of the budgets 1 .. B, from one pass.

        Raises:
            OtcacheError: if the problem has no costs.
        """
        costs = costs_of(problem, "lexicographic")
        edges, label = _Edges.of(costs), _Label.first(problem.num_steps)
        found, levels = [], []
        for _ in range(problem.budget):
            label, before = _extend(label, edges)
            levels.append(before)
            found.append(_solution(label, levels, problem.num_steps))
        return found


@dataclass(frozen=True, eq=False)
class _Edges:
    """Usable spans, sorted by stop, then start."""

    start: Ints
    stop: Ints
    cost: NDArray[np.float64]

    @classmethod
    def of(cls, costs: NDArray[np.float64]) -> _Edges:
        usable = np.isfinite(np.where(np.tri(*costs.shape) > 0, np.inf, costs))
        stop, start = np.nonzero(usable.T)
        return cls(start, stop, costs[start, stop])


@dataclass(frozen=True, eq=False)
class _Label:
    """Least sorted vector of every node (a column of numbers), and which nodes have a path."""

    numbers: NDArray[np.float64]
    reached: NDArray[np.bool_]

    @classmethod
    def first(cls, num_steps: int) -> _Label:
        return cls(np.zeros((0, num_steps + 1)), np.arange(num_steps + 1) == 0)


def _extend(label: _Label, edges: _Edges) -> tuple[_Label, Ints]:
    """Labels of paths one span longer, and the step before each node (-1: none)."""
    b, nodes = label.numbers.shape
    alive = np.flatnonzero(label.reached[edges.start])
    numbers = np.full((b + 1, nodes), np.inf)
    for m in range(b + 1):
        start, stop = edges.start[alive], edges.stop[alive]
        value = edges.cost[alive]
        if m > 0:
            value = np.minimum(value, label.numbers[m - 1, start])
        if m < b:
            value = np.maximum(value, label.numbers[m, start])
        np.minimum.at(numbers[m], stop, value)
        alive = alive[value == numbers[m, stop]]
    before = np.full(nodes, -1, dtype=np.intp)
    # Reversed, because the last assignment wins: the smallest start.
    before[edges.stop[alive][::-1]] = edges.start[alive][::-1]
    return _Label(numbers, before >= 0), before


def _solution(label: _Label, levels: list[Ints], num_steps: int) -> Solution:
    if not label.reached[-1]:
        return Solution(None, math.inf, Result.INFEASIBLE)
    steps, node = [], num_steps
    for before in reversed(levels):
        node = int(before[node])
        steps.append(node)
    schedule = Schedule(num_steps=num_steps, computed=tuple(reversed(steps)))
    vector = label.numbers[:, -1].tolist()
    return Solution(
        schedule,
        vector[0],
        Result.OPTIMAL,
        lower_bound=vector[0],
        certificate=LEAST_MAXIMUM,
        stats={"span_costs": vector},
    )
