"""Extrapolate the last two computed outputs."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.schedule import Span


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
