"""Extrapolation of an order that each run chooses from the outputs it has computed: no calibration."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import Forecaster, Orders, Ramp
from otcache_core.forecasters.extrapolation import Linear, Reuse
from otcache_core.schedule import Span

Floats = NDArray[np.float64]

#: With one earlier output: none of the slope if the output changed by half of its size, all if by a seventh.
FIRST = (Ramp(1.4, 0.0, -2.8),)
#: With two: the slope by the cosine of the last two changes, less where they are large; the bend where they
#: are nearly parallel.
LATER = (Ramp(0.65, 1.0, -2.0), Ramp(-9.0, 10.0, 0.0))
#: The branch of guidance without a prompt, and the same for it.
WITHOUT_PROMPT = "uncond"
LATER_WITHOUT_PROMPT = (Ramp(0.5, 1.0, -2.0), LATER[1])


@final
class VariableOrder(Forecaster):
    r"""Polynomial extrapolation of order 0, 1 or 2 in the grid coordinate, or between, as each sample asks.

    .. math:: \hat v_t = v_k + a\, \frac{s_t - s_k}{s_k - s_{k_1}} (v_k - v_{k_1})
        + b\, (s_t - s_k)(s_t - s_{k_1})\, v[s_k, s_{k_1}, s_{k_2}]

    with the second divided difference v[...]. Whether changes go on is seen in the changes so far, of each
    sample and branch by itself: with :math:`c = \cos(v_k - v_{k_1}, v_{k_1} - v_{k_2})` and
    :math:`q = \|v_k - v_{k_1}\| / \|v_k\|`

    .. math:: a = \operatorname{clamp}(0.65 + c - 2 q, 0, 1), \qquad b = \operatorname{clamp}(10 c - 9, 0, 1)

    (0.5 + c - 2 q in the branch without a prompt, ``uncond``), and while there is only one earlier output,
    :math:`a = \operatorname{clamp}(1.4 - 2.8\, q, 0, 1)`, b = 0: under guidance the output of the branch
    without a prompt turns sharply after the first step, which no line should continue. Without an earlier
    output it is reuse. Where an engine or an analysis needs fixed coefficients it is ``linear`` (a = 1,
    b = 0).

    Of a flow (registered as ``variable-order-flow``) order 0 of the branch without a prompt holds v - x, as
    EasyCache does. Since x_t is x_k + (s_t - s_k) v_k that is v_k (1 - |s_t - s_k|), so

    .. math:: \hat v_t = (1 - (1 - a) |s_t - s_k|)\, v_k + a\, (\ldots) + b\, (\ldots)

    Memory is three outputs. Nothing is copied to the host.

    Args:
        flow: whether outputs are velocities noise - data, and the grid is in [0, 1].

    References:
        Variable-order multistep methods: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations
        I, 1993, section III.7; EasyCache, 2025, https://arxiv.org/abs/2507.02860; docs/theory.md, section
        9.12, has the table that chose the numbers.
    """

    branches = (WITHOUT_PROMPT,)

    def __init__(self, flow: bool = False) -> None:
        self._flow = flow

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        """Return the table of ``linear``; without an earlier output, that of order 0."""
        if _has_slope(span, grid):
            return Linear().coefficients(span, grid)
        return self._held(span, grid)

    def orders(self, span: Span, grid: Floats) -> Orders | None:
        """Return order 0, linear and quadratic extrapolation, as far as there are outputs."""
        if not _has_slope(span, grid):
            return None
        tables = [self._held(span, grid), Linear().coefficients(span, grid)]
        if len(span.history) == 1:
            return Orders(tuple(tables), FIRST)
        tables.append(quadratic(span, grid))
        later = LATER_WITHOUT_PROMPT if span.branch == WITHOUT_PROMPT else LATER
        return Orders(tuple(tables), later)

    def _held(self, span: Span, grid: Floats) -> Floats:
        """Return the table of order 0."""
        held = Reuse().coefficients(span, grid)
        if self._flow and span.branch == WITHOUT_PROMPT:
            held = held - np.abs(grid[list(span.skipped)] - grid[span.start])[:, None]
        return held


def _has_slope(span: Span, grid: Floats) -> bool:
    return len(span.history) > 0 and grid[span.start] != grid[span.history[0]]


def quadratic(span: Span, grid: Floats) -> Floats:
    """Return Lagrange's coefficients through the last three outputs; shape (skipped, 3).

    Where two of them have one grid point, those of ``linear``.
    """
    points = grid[[span.start, *span.history[:2]]]
    table = np.zeros((len(span.skipped), 3))
    if len(set(points.tolist())) < 3:
        table[:, :2] = Linear().coefficients(span, grid)
        return table
    at = grid[list(span.skipped)]
    for r in range(3):
        others = np.delete(points, r)
        table[:, r] = np.prod((at[:, None] - others) / (points[r] - others), axis=1)
    return table
