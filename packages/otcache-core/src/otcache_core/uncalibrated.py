"""A schedule for a pipeline that nobody measured: steps from a prior, forecasts of variable order."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import ScheduleError
from otcache_core.numbers import integer, reals
from otcache_core.schedule import Schedule, check_num_steps

#: Names of the forecaster, :class:`~otcache_core.forecasters.VariableOrder`, for any output and for flows'.
FORECASTER, FLOW_FORECASTER = "variable-order", "variable-order-flow"
FORECASTERS = (FORECASTER, FLOW_FORECASTER)
#: The prior of how much outputs bend: 1 + START exp(-u / DECAY) + e / max(1 - u, NEAREST)^2, where e is END,
#: and less where fewer than a share of ENOUGH of the steps is computed.
START, DECAY, END, NEAREST, ENOUGH = 20.0, 0.1, 0.01, 0.01, 0.2
#: Above this N steps are quantiles of the prior, not the optimum, which takes time N^2 B.
EXACT_UP_TO = 400
#: A grid with larger values is one of timesteps, not of noise levels.
TIMESTEPS = 900.0
Floats = NDArray[np.float64]


def default_schedule(
    num_steps: int, budget: int, grid: Sequence[float] | Floats = (), prediction: str | None = ""
) -> Schedule:
    r"""Return B of N steps, and the forecaster ``variable-order``, without any measurement.

    Linear forecasts of outputs that bend by w_t err by w_t times the product of the distances to the two
    outputs, and the sampler takes that error times its own step |s_{t+1} - s_t|. So the steps are those of
    the least

    .. math:: \sum_{(k \to j)} \sum_{t=k+1}^{j-1} |\sigma_{t+1} - \sigma_t|\; w_t\,
        \frac{(t - k)(t - k + j - k)}{2}, \qquad w_t = 1 + 20 e^{-10u}
        + \frac{0.01\, \min(1, 5B/N)^4}{\max(1 - u, 0.01)^2}, \quad u = \frac{t + 1/2}{N}

    over all schedules of B steps, found by dynamic programming; the distance between outputs is taken to be
    that of the span. docs/theory.md, section 9.12, says where w comes from.

    Args:
        num_steps: N.
        budget: B, in 1 .. N.
        grid: s_0 .. s_N; sigma is s where that is at most 1 (flows), s / (1 + s) of noise levels above,
            and s over its largest value of timesteps. Empty, or not finite: equal steps.
        prediction: what the denoiser predicts, as :class:`~otcache_core.policy.Provenance` names it. Of a
            ``flow`` whose grid is within [0, 1] the forecaster is ``variable-order-flow``.

    Raises:
        ScheduleError: if the budget is not an integer in 1 .. N, or the grid does not have N + 1 values.
    """
    check_num_steps(num_steps)
    b = integer("budget", budget, 1, num_steps, kind=ScheduleError)
    points = tuple(reals("grid", grid, kind=ScheduleError)) if _usable(grid) else ()
    if points and len(points) != num_steps + 1:
        raise ScheduleError(f"grid must have {num_steps + 1} values, got {len(points)}.")
    flow = prediction == "flow" and bool(points) and 0.0 <= min(points) <= max(points) <= 1.0
    name = FLOW_FORECASTER if flow else FORECASTER
    return Schedule(num_steps, default_steps(num_steps, b, points), name)


def _usable(grid: Sequence[float] | Floats) -> bool:
    return len(grid) > 0 and bool(np.isfinite(np.asarray(grid, dtype=np.float64)).all())


@functools.lru_cache(maxsize=256)
def default_steps(num_steps: int, budget: int, grid: tuple[float, ...] = ()) -> tuple[int, ...]:
    """Return the steps of :func:`default_schedule`.

    Examples:
        >>> default_steps(30, 6)
        (0, 3, 8, 15, 22, 28)
    """
    density = _density(num_steps, budget, grid)
    if num_steps > EXACT_UP_TO:
        return _quantiles(density, budget)
    costs = _span_costs(density)
    best = np.full(num_steps + 1, np.inf)
    best[0] = 0.0
    sources = []
    for _ in range(budget):
        totals = best[:, None] + costs
        sources.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    steps = [num_steps]
    for source in reversed(sources):
        steps.append(int(source[steps[-1]]))
    return tuple(reversed(steps[1:]))


def _density(num_steps: int, budget: int, grid: tuple[float, ...]) -> Floats:
    """Return w_t times the sampler's step, of mean 1 over t; shape (N,)."""
    u = (np.arange(num_steps) + 0.5) / num_steps
    end = END * min(1.0, budget / (ENOUGH * num_steps)) ** 4
    prior = 1.0 + START * np.exp(-u / DECAY) + end / np.maximum(1.0 - u, NEAREST) ** 2
    widths = np.abs(np.diff(_noise_shares(np.array(grid)))) if grid else np.ones(num_steps)
    total = widths.sum()
    return np.asarray(prior * (widths * num_steps / total if total > 0 else 1.0))


def _noise_shares(grid: Floats) -> Floats:
    """Return sigma in [0, 1] of a grid of flow times, of noise levels sigma / alpha, or of timesteps."""
    largest = np.abs(grid).max()
    if largest <= 1.0:
        return grid
    return np.asarray(grid / largest if largest > TIMESTEPS else grid / (1.0 + np.abs(grid)))


def _span_costs(density: Floats) -> Floats:
    """Return the cost of each span (k -> j), inf where j <= k; shape (N + 1, N + 1)."""
    t = np.arange(len(density))
    sums = [np.concatenate([[0.0], np.cumsum(density * t**p)]) for p in (0, 1, 2)]
    k, j = np.ogrid[: len(density) + 1, : len(density) + 1]
    after = np.minimum(k + 1, len(density))
    s0, s1, s2 = (s[j] - s[after] for s in sums)
    costs = 0.5 * (s2 - 2 * k * s1 + k**2 * s0 + (j - k) * (s1 - k * s0))
    return np.where(j > k, np.maximum(costs, 0.0), np.inf)


def _quantiles(density: Floats, budget: int) -> tuple[int, ...]:
    """Return steps with equal shares of the cube root of the density, which is the optimum of a large N."""
    n = len(density)
    reached = np.cumsum(np.cbrt(density))
    wanted = np.searchsorted(reached, np.arange(budget) / budget * reached[-1])
    steps = np.maximum.accumulate(wanted - np.arange(budget)) + np.arange(budget)
    return tuple(int(t) for t in np.minimum(steps, n - budget + np.arange(budget)))
