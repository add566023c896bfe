"""Exact planning for a forecaster that looks back one computed step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Need, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_solvers.additive.open_loop import OpenLoopFit
from otcache_solvers.costs.forecast import ForecastCosts, check_ridge
from otcache_solvers.needs import gram_of, grid_of

CERTIFICATE = (
    "least sum over spans of E ||delta_c(previous, k -> j)||^2 under the open-loop "
    "two-term forecast, on the samples of the Gram"
)


@final
@dataclass(frozen=True, eq=False)
class SecondOrder(ScheduleSolver):
    r"""Minimise the summed squared displacement of forecast spans.

    .. math:: \min_{S} \sum_{m=1}^{B} q(k_{m-1}, k_m, k_{m+1}), \qquad k_{B+1} = N

    with q of :class:`~otcache_solvers.costs.forecast.ForecastCosts`, on the problem's Gram and grid,
    each span weighted by the gain of its end where the problem has gains. A span's cost depends on the
    span before it, so the dynamic program runs over pairs (previous, current):
    V_{b+1}(k, j) = min_p V_b(p, k) + q(p, k, j), O(N^3) a budget. Of equal paths the one with the
    smaller steps at its end is taken. The problem's costs are not used.

    References:
        docs/theory.md, section 7.3.

    Args:
        ridge: of the forecast, relative; above 0.
        fitted: store the weights of the planned forecast in the schedule
            (:class:`~otcache_solvers.additive.open_loop.OpenLoopFit` of memory 2); else it reuses, for a fit
            in closed loop to come.

    Raises:
        OtcacheError: if the ridge is not above 0.
    """

    abilities = Abilities(
        needs=frozenset({Need.GRAM, Need.GRID}), exact=True, all_budgets=True, forecasts=True
    )

    ridge: float = 1e-4
    fitted: bool = False

    def __post_init__(self) -> None:
        check_ridge(self.ridge)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """The best schedule of the problem's budget.

        Raises:
            OtcacheError: if the problem has no Gram or no grid, or one that is none.
        """
        return self.frontier(problem)[-1]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """The best schedules of the budgets 1 .. B, from one pass.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        gram, grid = (of(problem, "solver 'second-order'") for of in (gram_of, grid_of))
        gains = None if problem.gains is None else np.asarray(problem.gains, dtype=np.float64)
        costs = ForecastCosts(gram, grid, gains, self.ridge).table()
        fit = OpenLoopFit(gram, grid, 2, self.ridge) if self.fitted else None
        return [_solution(*path, len(gram), fit) for path in _paths(costs, problem.budget)]


def _paths(q: NDArray[np.float64], budget: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Steps and value of the best schedule of every budget 1 .. B; q as ForecastCosts.table."""
    n = len(q)
    V = np.full((n, n), np.inf)
    V[0, 0] = 0.0  # one computed step: 0, with nothing before it
    pointers: list[NDArray[np.intp]] = []
    for b in range(budget):
        low = max(b - 1, 0)  # b + 1 computed steps end in a pair (p, k) with p >= b - 1
        through = V[low:, low:, None] + q[low:, low:, low:]  # [p, k, j]
        best = through.argmin(axis=0)
        W = np.full((n, n + 1), np.inf)
        W[low:, low:] = np.take_along_axis(through, best[None], axis=0)[0]
        pointers.append(np.pad(best + low, ((low, 0), (low, 0))))
        last = int(W[:, n].argmin())
        yield _walk(pointers, last, n), float(W[last, n])
        V = W[:, :n]


def _solution(
    steps: tuple[int, ...], value: float, num_steps: int, fit: OpenLoopFit | None
) -> Solution:
    plain = Schedule(num_steps=num_steps, computed=steps)
    schedule = fit.fitted(plain) if fit else plain
    return Solution(schedule, value, Result.OPTIMAL, value, CERTIFICATE)


def _walk(pointers: list[NDArray[np.intp]], last: int, n: int) -> tuple[int, ...]:
    """Follow the pointers from the last span (last -> n) back to step 0."""
    steps, following = [last], n
    for best in reversed(pointers[1:]):
        previous = int(best[steps[-1], following])
        following = steps[-1]
        steps.append(previous)
    return tuple(reversed(steps))
