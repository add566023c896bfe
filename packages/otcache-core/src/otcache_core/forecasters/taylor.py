"""Extrapolate computed outputs by a Taylor series in the step index."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.errors import ScheduleError, expected
from otcache_core.schedule import Span


@final
@dataclass(frozen=True)
class Taylor(Forecaster):
    r"""TaylorSeer's rule on whole outputs: derivatives by finite differences over computed steps.

    .. math:: \hat v_t = \sum_{q=0}^{Q} \frac{(t-k)^q}{q!}\, \Delta^q_k, \qquad
        \Delta^0_k = v_k, \quad
        \Delta^q_k = \frac{\Delta^{q-1}_k - \Delta^{q-1}_{k_1}}{k - k_1}

    in the step index, not in the grid coordinate, with Q the order or the number of earlier
    computed steps, whichever is smaller: without history it is reuse. Order 1 is exact for outputs
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
        steps = np.array([span.start, *span.history[: self.order]], dtype=np.float64)
        ahead = np.array(span.skipped, dtype=np.float64)[:, None] - span.start
        delta = np.eye(len(steps))  # row r: Delta^q at k_r in terms of the outputs
        table = np.tile(delta[0], (len(ahead), 1))
        for q in range(1, len(steps)):
            delta = (delta[:-1] - delta[1:]) / (steps[:-q] - steps[1 : len(steps) - q + 1])[:, None]
            table = table + ahead**q / math.factorial(q) * delta[0]
        return np.asarray(table)
