"""The solvers that need no dependency: two rules that measure nothing, and the oracle for small N."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import Abilities, ScheduleSolver
from otcache_core.errors import OtcacheError, expected
from otcache_core.problem import Need, Result, ScheduleProblem, Solution
from otcache_core.schedule import Schedule
from otcache_core.transport import uniform_steps
from otcache_core.uncalibrated import default_schedule


@final
class Uniform(ScheduleSolver):
    r"""Equal gaps from the first step on.

    A baseline that calibration measures beside its own schedules.

    .. math:: k_m = \lfloor (m-1) N / B \rfloor, \qquad m = 1 \dots B

    so gaps differ by at most one and every B up to N is feasible.
    """

    abilities = Abilities(exact=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Solve one problem; looks at N and B only.

        Returns:
            The objective is the largest gap, a whole number of steps; no schedule has a smaller one than
            ceil(N / B).
        """
        n, b = problem.num_steps, problem.budget
        schedule = Schedule(num_steps=n, computed=uniform_steps(n, b))
        gap = float(-(-n // b))
        return Solution(schedule, gap, Result.OPTIMAL, lower_bound=gap, certificate="largest gap")


@final
class Prior(ScheduleSolver):
    """Steps of the least prior cost, which nothing was measured for: those of ``default_schedule``.

    They depend on N, B and the grid, where it is known:
    :func:`otcache_core.uncalibrated.default_schedule`.
    """

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Solve one problem; looks at N, B and the grid only.

        Returns:
            The objective is 0: the prior is of the form of costs, not of their size.
        """
        grid = () if problem.grid is None else problem.grid
        steps = default_schedule(problem.num_steps, problem.budget, grid).computed
        return Solution(Schedule(problem.num_steps, steps), 0.0, Result.FOUND)


#: From the costs of a schedule's B spans, in order, to anything that can be compared by ``<``.
Objective = Callable[[Sequence[float]], Any]


@dataclass(frozen=True)
class Additive:
    """sum of w: what a shortest path minimises."""

    def __call__(self, costs: Sequence[float]) -> float:
        """Return the sum, exactly rounded."""
        return math.fsum(costs)


@dataclass(frozen=True)
class Minimax:
    """max of w: the worst span alone."""

    def __call__(self, costs: Sequence[float]) -> float:
        """Return the largest."""
        return max(costs)


@dataclass(frozen=True)
class Lexicographic:
    """The worst span, then the second worst, and so on (LeMiCa, arXiv 2511.00090)."""

    def __call__(self, costs: Sequence[float]) -> tuple[float, ...]:
        """Return the costs, largest first; tuples compare in order."""
        return tuple(sorted(costs, reverse=True))


@final
@dataclass(frozen=True)
class BruteForce(ScheduleSolver):
    r"""The exact optimum over all schedules, by trying each.

    The oracle of tests: other exact solvers give the same objective in less time.

    .. math:: \min_{0 = k_1 < \dots < k_B < N} F\big(w(k_1 \to k_2), \dots, w(k_B \to N)\big)

    Ties go to the schedule that is first in lexicographic order of its steps.

    Args:
        objective: F; :class:`Additive`, :class:`Minimax`, :class:`Lexicographic` or any callable.
            ``Solution.objective`` is its value, or its first entry if it is a tuple.
        max_candidates: refuse larger problems.
    """

    abilities = Abilities(needs=frozenset({Need.COSTS}), exact=True)

    objective: Objective = Additive()
    max_candidates: int = 2_000_000

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Solve one problem.

        Raises:
            OtcacheError: if the problem has no costs, or too many schedules.
        """
        if problem.costs is None:
            raise OtcacheError(
                "brute-force needs costs, got none: measure them with a cost model such as Local() "
                "of otcache-solvers and pass costs=..."
            )
        n, b = problem.num_steps, problem.budget
        count = math.comb(n - 1, b - 1)
        if count > self.max_candidates:
            wanted = f"at most {self.max_candidates:,}"
            advice = "use an exact solver of otcache-solvers, ShortestPath() or Lexicographic()."
            what = f"number of schedules with N = {n}, B = {b}"
            raise OtcacheError(expected(what, count, wanted, advice))
        best, steps = self._search(problem.costs, n, b)
        stats = {"candidates": count}
        if steps is None:
            return Solution(None, math.inf, Result.INFEASIBLE, stats=stats)
        value = float(best[0] if isinstance(best, tuple) else best)
        schedule = Schedule(num_steps=n, computed=steps)
        name = getattr(self.objective, "__name__", type(self.objective).__name__)
        return Solution(schedule, value, Result.OPTIMAL, value, f"{name} of the span costs", stats)

    def _search(
        self, costs: NDArray[np.float64], n: int, b: int
    ) -> tuple[Any, tuple[int, ...] | None]:
        table = costs.tolist()
        best: Any = None
        steps: tuple[int, ...] | None = None
        for rest in itertools.combinations(range(1, n), b - 1):
            path = (0, *rest, n)
            spans = [table[i][j] for i, j in itertools.pairwise(path)]
            if math.inf in spans:
                continue
            value = self.objective(spans)
            if steps is None or value < best:
                best, steps = value, path[:-1]
        return best, steps
