"""Plan for a forecast from two outputs, exactly, and fit forecast weights in open loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.schedule import Span
from otcache_solvers.costs.gram import ForecastCosts, check_ridge, check_run
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

    with q of :class:`~otcache_solvers.costs.gram.ForecastCosts`, on the problem's Gram and grid,
    each span weighted by the gain of its end if the problem has gains. A span's cost depends on the
    span before it, so the dynamic program runs over pairs (previous, current):
    V_{b+1}(k, j) = min_p V_b(p, k) + q(p, k, j), O(N^3) a budget. Of equal paths the one with the
    smaller steps at its end is taken. The problem's costs are not used.

    References:
        docs/theory.md, section 7.3.

    Args:
        ridge: of the forecast, relative; above 0.
        fitted: store the weights of the planned forecast in the schedule
            (:class:`OpenLoopFit` of memory 2); else it reuses, for a fit
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
        """Find the best schedule of the problem's budget.

        Raises:
            OtcacheError: if the problem has no Gram or no grid, or one that is none.
        """
        return self.frontier(problem)[-1]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """Find the best schedules of the budgets 1 .. B, from one pass.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        gram, grid = (of(problem, "solver 'second-order'") for of in (gram_of, grid_of))
        gains = None if problem.gains is None else np.asarray(problem.gains, dtype=np.float64)
        costs = ForecastCosts(gram, grid, gains, self.ridge).table()
        fit = OpenLoopFit(gram, grid, 2, self.ridge) if self.fitted else None
        found = []
        for steps, value in _paths(costs, problem.budget):
            plain = Schedule(num_steps=len(gram), computed=steps)
            schedule = fit.fitted(plain) if fit else plain
            found.append(Solution(schedule, value, Result.OPTIMAL, value, CERTIFICATE))
        return found


def _paths(q: NDArray[np.float64], budget: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield steps and value of the best schedule of each budget 1 .. B; q as ForecastCosts.table."""
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


def _walk(pointers: list[NDArray[np.intp]], last: int, n: int) -> tuple[int, ...]:
    """Follow the pointers from the last span (last -> n) back to step 0."""
    steps, following = [last], n
    for best in reversed(pointers[1:]):
        previous = int(best[steps[-1], following])
        following = steps[-1]
        steps.append(previous)
    return tuple(reversed(steps))


Array = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class OpenLoopFit:
    r"""Fit the weights of each span by least squares on the full run's own outputs ("open loop").

    .. math:: \min_\alpha E \Big\| \sum_{r=0}^{m-1} \alpha_r v_{k_r} - z \Big\|^2
        + \lambda \| \alpha \|^2, \qquad z = \sum_{t=k+1}^{j-1} (s_{t+1} - s_t)\, v_t

    Fitting every skipped step by itself gives the same end of the span, since least squares is linear
    in its target. So one constant output u does for all of them, in the executed form that
    ``fitted`` knows,

    .. math:: u = \frac{1}{R} \sum_r \alpha_r v_{k_r}
        = v_k + c_0 v_k + \sum_{r \ge 1} c_r (v_k - v_{k_r}), \qquad R = s_j - s_{k+1}

    No evaluation is spent; how far the accelerated run has drifted by then is not seen (a fit in
    closed loop sees it). lambda is ``ridge`` times the mean of the normal matrix's diagonal, so at memory 2
    these are the weights that :class:`SecondOrder` plans with. For an
    Euler sampler in s.

    References:
        docs/theory.md, section 7.2.

    Args:
        gram: H[a, b] = E <v_a, v_b>, shape (N, N), symmetric.
        grid: s_0 .. s_N, shape (N + 1,).
        memory: m, the number of computed outputs combined; 1 to 3.
        ridge: relative, above 0.

    Raises:
        OtcacheError: if a shape or value is wrong.

    Examples:
        >>> v = np.array([1.0, 2.0, 3.0])  # linear in s: two outputs give the third
        >>> fit = OpenLoopFit(np.outer(v, v), np.array([3.0, 2.0, 1.0, 0.0]), memory=1, ridge=1e-9)
        >>> [round(c, 6) for row in fit.fitted(Schedule(3, (0, 1))).weights for c in row]
        [0.0, 0.5]
    """

    gram: Array
    grid: Array
    memory: int = 3
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        check_run(self.gram, self.grid, self.ridge)
        if self.memory not in (1, 2, 3):
            raise OtcacheError(expected("OpenLoopFit.memory", self.memory, "1, 2 or 3"))

    def fitted(self, schedule: Schedule) -> Schedule:
        """Store in the same steps a row of weights a span, for every branch.

        Raises:
            OtcacheError: if N differs.
        """
        n = len(self.gram)
        if schedule.num_steps != n:
            raise OtcacheError(
                expected("schedule.num_steps", schedule.num_steps, f"{n}, as the Gram")
            )
        return schedule.with_weights([self.weights(span) for span in schedule.spans()])

    def weights(self, span: Span) -> tuple[float, ...]:
        """Compute c_0 .. c_{m-1} of one span, m at most 1 + history; zeros if nothing is skipped."""
        known = [span.start, *span.history][: self.memory]
        ahead = list(span.skipped)
        reach = float(self.grid[span.stop] - self.grid[span.start + 1])
        if not ahead or reach == 0.0:
            return (0.0,) * len(known)
        normal = self.gram[np.ix_(known, known)]
        toward = self.gram[np.ix_(known, ahead)] @ np.diff(self.grid)[ahead]
        size = float(np.trace(normal)) / len(known)
        if size <= 0.0:
            return (0.0,) * len(known)
        share = np.linalg.solve(normal + self.ridge * size * np.eye(len(known)), toward) / reach
        return (float(share.sum()) - 1.0, *(-float(a) for a in share[1:]))
