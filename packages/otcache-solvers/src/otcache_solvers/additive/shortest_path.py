"""Paths of B spans with the least sum, largest cost or sum of powers of costs.

The additive baseline by networkx, LeMiCa's lexicographic minimax and MeanCache's peak suppression, all exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_solvers.needs import costs_of, library

LEAST_SUM = "least sum of the problem's span costs"


@final
class ShortestPath(ScheduleSolver):
    r"""Minimise the sum of span costs, as if errors of spans were independent.

    A reference implementation: with fitted forecasts its schedules have a larger error than the
    default policy's in seven of the eight settings of docs/regret.md.

    .. math:: \min_{S} \sum_{m=1}^{B} w(k_m \to k_{m+1}), \qquad k_{B+1} = N

    The plain graph baseline that OTCache argues against at low budgets: networkx's Dijkstra on the
    layered span graph, whose nodes are (spans so far, step). O(B N^2) edges.

    References:
        networkx, https://networkx.org; OTCache (2026), https://arxiv.org/abs/2606.31026

    Examples:
        >>> costs = np.triu(np.ones((4, 5)), k=2)
        >>> ShortestPath().solve(ScheduleProblem(4, 2, costs=costs)).schedule.computed
        (0, 1)
    """

    abilities = Abilities(needs=frozenset({Need.COSTS}), exact=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Find a path of least sum; which of several equal ones is networkx's choice, always the same.

        Raises:
            OtcacheError: if the problem has no costs, or networkx is not installed.
        """
        costs = costs_of(problem, "shortest-path")
        nx = library("networkx", "solver 'shortest-path'")
        starts, stops = np.nonzero(np.isfinite(np.where(np.tri(*costs.shape) > 0, np.inf, costs)))
        graph = nx.DiGraph()
        for i, j in zip(starts.tolist(), stops.tolist(), strict=True):
            layers = range(problem.budget)
            graph.add_edges_from(((b, i), (b + 1, j), {"weight": costs[i, j]}) for b in layers)
        try:
            total, path = nx.single_source_dijkstra(graph, (0, 0), (problem.budget, len(costs)))
        except (nx.NetworkXNoPath, nx.NodeNotFound):
            return Solution(None, math.inf, Result.INFEASIBLE)
        schedule = Schedule(num_steps=len(costs), computed=tuple(step for _, step in path[:-1]))
        return Solution(schedule, float(total), Result.OPTIMAL, float(total), LEAST_SUM)


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
        """Find the best schedule of the problem's budget.

        Raises:
            OtcacheError: if the problem has no costs.
        """
        return self.frontier(problem)[-1]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """Find the best schedules of the budgets 1 .. B, from one pass.

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
    """Return labels of paths one span longer, and the step before each node (-1: none)."""
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


def _walk(pointers: list[Ints], num_steps: int) -> Schedule:
    """Follow the step before each node, one array a span, from N back to step 0."""
    steps, node = [], num_steps
    for before in reversed(pointers):
        node = int(before[node])
        steps.append(node)
    return Schedule(num_steps=num_steps, computed=tuple(reversed(steps)))


def _solution(label: _Label, levels: list[Ints], num_steps: int) -> Solution:
    if not label.reached[-1]:
        return Solution(None, math.inf, Result.INFEASIBLE)
    schedule = _walk(levels, num_steps)
    vector = label.numbers[:, -1].tolist()
    return Solution(
        schedule,
        vector[0],
        Result.OPTIMAL,
        lower_bound=vector[0],
        certificate=LEAST_MAXIMUM,
        stats={"span_costs": vector},
    )


Floats = NDArray[np.float64]
#: Powers may span this many factors of ten: then none is lost to a float's range.
DECADES = 290


@final
@dataclass(frozen=True)
class PeakSuppressed(ScheduleSolver):
    r"""Minimise the sum of powers of span costs: between the sum and the worst span.

    A reference implementation: on MeanCache's costs and with its forecast, the error is above the
    default policy's at every budget of docs/quality.md.

    .. math:: \min_{S} \sum_{m=1}^{B} w(k_m \to k_{m+1})^\gamma, \qquad k_{B+1} = N

    by V_b(j) = min_i V_{b-1}(i) + w(i -> j)^gamma, O(B N^2), all budgets up to B in one pass. gamma
    1 is the additive shortest path; as gamma grows the worst span decides. Of equal paths
    the one with the smaller steps at its end is taken. Terms below 1e-16 of the sum count
    as ties.

    References:
        MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference
        (2026), https://arxiv.org/abs/2601.19961, whose gamma is 4.

    Args:
        gamma: exponent; above 0.

    Raises:
        OtcacheError: if gamma is out of range.

    Examples:
        >>> costs = np.triu(np.ones((4, 5)), k=2)
        >>> costs[0, 3] = 1.2
        >>> PeakSuppressed().solve(ScheduleProblem(4, 2, costs=costs)).schedule.computed
        (0, 1)
    """

    abilities = Abilities(needs=frozenset({Need.COSTS}), exact=True, all_budgets=True)

    gamma: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise OtcacheError(expected("gamma", self.gamma, "above 0 and finite"))

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Find the best schedule of the problem's budget.

        Raises:
            OtcacheError: if the problem has no costs, or their powers do not fit a float.
        """
        return self.frontier(problem)[-1]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """Find the best schedules of the budgets 1 .. B, from one pass.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        powers, scale = self._powers(costs_of(problem, "peak-suppressed"))
        n = problem.num_steps
        value = np.full(n, np.inf)
        value[0] = 0.0
        found, pointers = [], []
        for _ in range(problem.budget):
            through = value[:, None] + powers
            pointers.append(through.argmin(axis=0))
            best = through[pointers[-1], np.arange(n + 1)]
            found.append(self._solution(pointers, float(best[n]), scale))
            value = best[:n]
        return found

    def _powers(self, costs: Floats) -> tuple[Floats, float]:
        """Compute (w / largest)^gamma, infinite if there is no span, and largest^gamma."""
        usable = np.where(np.tri(*costs.shape) > 0, np.inf, costs)
        positive = usable[np.isfinite(usable) & (usable > 0)]
        if not positive.size:
            return usable, 1.0
        low, high = float(positive.min()), float(positive.max())
        decades = math.log10(high) - math.log10(low)
        if self.gamma * decades > DECADES:
            raise OtcacheError(
                f"span costs from {low:.1e} to {high:.1e} to the power {self.gamma:g} do not fit a "
                f"float: set gamma={math.floor(100 * DECADES / decades) / 100:g} or less, "
                "or use the 'lexicographic' solver, which is the limit of a large gamma."
            )
        if self.gamma * abs(math.log10(high)) > DECADES:
            raise OtcacheError(
                f"the largest span cost, {high:.1e}, to the power {self.gamma:g} does not fit a "
                "float: divide the costs by it."
            )
        return (usable / high) ** self.gamma, high**self.gamma

    def _solution(self, pointers: list[Ints], value: float, scale: float) -> Solution:
        if math.isinf(value):
            return Solution(None, math.inf, Result.INFEASIBLE)
        schedule = _walk(pointers, len(pointers[0]) - 1)
        certificate = f"least sum of the problem's span costs to the power {self.gamma:g}"
        total = value * scale
        return Solution(schedule, total, Result.OPTIMAL, total, certificate)
