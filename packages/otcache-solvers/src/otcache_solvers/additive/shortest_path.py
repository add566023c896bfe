"""The additive baseline: a shortest path of B spans."""

from __future__ import annotations

import math
from typing import final

import numpy as np

from otcache_core import Need, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
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
        """A path of least sum; which of several equal ones is networkx's choice, but always it.

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
