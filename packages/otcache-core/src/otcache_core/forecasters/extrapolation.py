"""Forecasts from computed outputs: repeat them, extrapolate them, or combine them with fitted weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import Forecaster
from otcache_core.errors import ScheduleError, expected
from otcache_core.schedule import Span


@final
class Reuse(Forecaster):
    r"""Zeroth order: the denoiser is taken as constant over the span.

    .. math:: \hat v_t = v_k

    Under a deterministic one-step sampler this is sampling on the computed steps alone
    (docs/theory.md, section 2).
    """

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return A = 1, shape (skipped, 1)."""
        return np.ones((len(span.skipped), 1))


@final
class Linear(Forecaster):
    r"""First order in the grid coordinate s, exact for outputs linear in s.

    .. math:: \hat v_t = v_k + \frac{s_t - s_k}{s_k - s_{k_1}} (v_k - v_{k_1})

    Where there is no earlier computed step, or ``s_k = s_{k_1}``, it is reuse.

    References:
        The step from k to k+1 and on is the two-step Adams-Bashforth rule with the integral taken
        as the sampler's own sum over steps: Hairer, Norsett, Wanner, Solving Ordinary Differential
        Equations I, 1993, section III.1.
    """

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (1 + rho_t, -rho_t), rho_t = (s_t - s_k) / (s_k - s_{k_1}); shape (skipped, 2)."""
        k = span.start
        gap = grid[k] - grid[span.history[0]] if span.history else 0.0
        if gap == 0.0:
            return np.ones((len(span.skipped), 1))
        rho = (grid[list(span.skipped)] - grid[k]) / gap
        return np.stack([1.0 + rho, -rho], axis=1)


@final
@dataclass(frozen=True)
class Taylor(Forecaster):
    r"""TaylorSeer's rule on whole outputs: derivatives by finite differences over computed steps.

    .. math:: \hat v_t = \sum_{q=0}^{Q} \frac{(t-k)^q}{q!}\, \Delta^q_k, \qquad
        \Delta^0_k = v_k, \quad
        \Delta^q_k = \frac{\Delta^{q-1}_k - \Delta^{q-1}_{k_1}}{k - k_1}

    in the step index, not in the grid coordinate, with Q the smaller one of the order and
    the number of earlier computed steps: without history it is reuse. Order 1 is exact for outputs
    linear in the index; higher orders take one-sided differences as if they were derivatives at k,
    as the source does, and are not exact for polynomials of their degree. The source forecasts
    the features of every block; here the denoiser's output is the one feature.

    Memory is 1 + Q outputs.

    References:
        From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers (2025),
        https://arxiv.org/abs/2503.06923.

    Args:
        order: Q, at least 0; 0 is reuse. Registered are 1 (``taylor-1``), 2 (``taylor``) and
            3 (``taylor-3``).

    Raises:
        ScheduleError: if the order is out of range.

    Examples:
        >>> Taylor(1).coefficients(Span(4, 7, (2, 0)), np.linspace(1, 0, 11)).tolist()
        [[1.5, -0.5], [2.0, -1.0]]
    """

    order: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int) or self.order < 0:
            raise ScheduleError(expected("Taylor.order", self.order, "an integer, 0 or more"))

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of the rows of Delta^q times (t-k)^q / q!; shape (skipped, 1 + Q); needs no grid."""
        rows = differences((span.start, *span.history[: self.order]))
        ahead = np.array(span.skipped, dtype=np.float64)[:, None] - span.start
        table = np.tile(rows[0], (len(ahead), 1))
        for q in range(1, len(rows)):
            table = table + ahead**q / math.factorial(q) * rows[q]
        return np.asarray(table)


def differences(steps: Sequence[int]) -> NDArray[np.float64]:
    r"""Delta^0 .. Delta^{m-1} at k in terms of v_k, v_{k_1}, ...; the rule is :class:`Taylor`'s.

    Args:
        steps: k, k_1, ..., latest first.

    Returns:
        Shape (m, m).
    """
    points = np.array(steps, dtype=np.float64)
    delta = np.eye(len(points))  # row r: Delta^q at k_r
    rows = [delta[0]]
    for q in range(1, len(points)):
        delta = (delta[:-1] - delta[1:]) / (points[:-q] - points[1 : len(points) - q + 1])[:, None]
        rows.append(delta[0])
    return np.array(rows)


@final
class Fitted(Forecaster):
    r"""One combination for all skipped steps of a span, with the weights c stored in the schedule.

    .. math:: \hat v_t = v_k + c_0 v_k + \sum_{r=1}^{m-1} c_r (v_k - v_{k_r})

    No weights mean reuse. The weights are in the executed form: they act on skipped steps only, and
    the computed step k returns v_k untouched (docs/theory.md, section 7.1).
    """

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (1 + c_0 + ... + c_{m-1}, -c_1, ..., -c_{m-1}), all the same; shape (skipped, m).

        Raises:
            ScheduleError: if there are weights for computed steps that do not exist.
        """
        available = 1 + len(span.history)
        if len(span.weights) > available:
            what = f"number of weights of span ({span.start} -> {span.stop})"
            raise ScheduleError(
                expected(what, len(span.weights), f"at most {available}", "one per computed step.")
            )
        c = np.asarray(span.weights or (0.0,), dtype=np.float64)
        row = np.concatenate([[1.0 + c.sum()], -c[1:]])
        return np.tile(row, (len(span.skipped), 1))
