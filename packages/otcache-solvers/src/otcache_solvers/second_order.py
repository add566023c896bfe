"""Exact planning for a forecaster that looks back one computed step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import ScheduleSolver
from otcache_core.errors import expected
from otcache_solvers.costs.forecast import ForecastCosts
from otcache_solvers.open_loop import OpenLoopFit

CERTIFICATE = (
    "least sum over spans of E ||delta_c(previous, k -> j)||^2 under the open-loop "
    "two-term forecast, on the samples of the Gram"
)


@final
@dataclass(frozen=True, eq=False)
class SecondOrder(ScheduleSolver):
    r"""Minimise the summed squared displacement of forecast spans.

    .. math:: \min_{S} \sum_{m=1}^{B} q(k_{m-1}, k_m, k_{m+1}), \qquad k_{B+1} = N

    with q of :class:`~otcache_solvers.costs.forecast.ForecastCosts`: a span's cost depends on the
    span before it, so the dynamic program runs over pairs (previous, current):
    V_{b+1}(k, j) = min_p V_b(p, k) + q(p, k, j). One pass of O(N^3) a budget answers all budgets;
    it is made at the first ``solve``. Of equal paths the one with the smaller steps at its end is
    taken.

    References:
        METHODS.md, section 4 ("open loop").

    Args:
        gram: H[a, b] = E <v_a, v_b> over the calibration samples, shape (N, N).
        grid: s_0 .. s_N, shape (N + 1,).
        gains: g_0 .. g_N, growth of a deviation from step j to the end; none by default.
        ridge: of the forecast, relative.
        fitted: store the weights of the planned forecast in the schedule
            (:class:`~otcache_solvers.open_loop.OpenLoopFit` of memory 2); else it reuses, for a fit
            in closed loop to come.

    Raises:
        OtcacheError: if only one of ``gram`` and ``grid`` is given, or a shape or value is wrong.
    """

    gram: NDArray[np.float64] | None = None
    grid: NDArray[np.float64] | None = None
    gains: NDArray[np.float64] | None = None
    ridge: float = 1e-4
    fitted: bool = False

    def __post_init__(self) -> None:
        if (self.gram is None) != (self.grid is None):
            raise OtcacheError("SecondOrder takes gram and grid together, got one of them.")
        if self.gram is not None:
            self._costs  # noqa: B018  # bad input is an error here, not at the first solve

    def solve(self, problem: ScheduleProblem) -> Solution:
        """The best schedule of the problem's budget; its costs are not used.

        Raises:
            OtcacheError: if the solver was made without a Gram, or N differs.
        """
        n = len(self._costs)
        if problem.num_steps != n:
            raise OtcacheError(expected("num_steps", problem.num_steps, f"{n}, as the Gram"))
        steps, value = self._paths[problem.budget - 1]
        schedule = Schedule(num_steps=n, computed=steps)
        return Solution(
            self._fit.fitted(schedule) if self.fitted else schedule,
            value,
            Result.OPTIMAL,
            lower_bound=value,
            certificate=CERTIFICATE,
            stats={"nfe": 0},
        )

    @cached_property
    def _fit(self) -> OpenLoopFit:
        gram, grid = (np.asarray(a, dtype=np.float64) for a in (self.gram, self.grid))
        return OpenLoopFit(gram, grid, 2, self.ridge)

    @cached_property
    def _costs(self) -> NDArray[np.float64]:
        if self.gram is None or self.grid is None:
            raise OtcacheError(
                "SecondOrder needs the Gram of the outputs, got none: "
                "create it as SecondOrder(gram, grid)."
            )
        gains = None if self.gains is None else np.asarray(self.gains, dtype=np.float64)
        gram, grid = (np.asarray(a, dtype=np.float64) for a in (self.gram, self.grid))
        return ForecastCosts(gram, grid, gains, self.ridge).table()

    @cached_property
    def _paths(self) -> list[tuple[tuple[int, ...], float]]:
        """Steps and value of the best schedule of every budget 1 .. N."""
        q = self._costs
        n = len(q)
        V = np.full((n, n), np.inf)
        V[0, 0] = 0.0  # one computed step: 0, with nothing before it
        pointers: list[NDArray[np.intp]] = []
        paths = []
        for b in range(n):
            low = max(b - 1, 0)  # b + 1 computed steps end in a pair (p, k) with p >= b - 1
            through = V[low:, low:, None] + q[low:, low:, low:]  # [p, k, j]
            best = through.argmin(axis=0)
            W = np.full((n, n + 1), np.inf)
            W[low:, low:] = np.take_along_axis(through, best[None], axis=0)[0]
            pointers.append(np.pad(best + low, ((low, 0), (low, 0))))
            last = int(W[:, n].argmin())
            paths.append((_walk(pointers, last, n), float(W[last, n])))
            V = W[:, :n]
        return paths


def _walk(pointers: list[NDArray[np.intp]], last: int, n: int) -> tuple[int, ...]:
    """Follow the pointers from the last span (last -> n) back to step 0."""
    steps, following = [last], n
    for best in reversed(pointers[1:]):
        previous = int(best[steps[-1], following])
        following = steps[-1]
        steps.append(previous)
    return tuple(reversed(steps))
