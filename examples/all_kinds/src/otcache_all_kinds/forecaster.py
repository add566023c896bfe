"""The forecaster."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import ScheduleError, Span
from otcache_core.contracts import Forecaster
from otcache_core.errors import expected


@final
@dataclass(frozen=True)
class Damped(Forecaster):
    r"""A share of the linear extrapolation of the last two computed outputs.

    .. math:: \hat v_t = v_k + a \, \frac{s_t - s_k}{s_k - s_{k_1}} (v_k - v_{k_1})

    Reuse where there is no earlier computed step.

    Args:
        share: a, in 0 .. 1; 0 is reuse, 1 is ``linear``.

    Raises:
        ScheduleError: if the share is out of range.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ScheduleError(expected("Damped.share", self.share, "between 0 and 1"))

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (1 + a rho_t, -a rho_t); shape (skipped, 2), or (skipped, 1) for reuse."""
        gap = grid[span.start] - grid[span.history[0]] if span.history else 0.0
        if gap == 0.0:
            return np.ones((len(span.skipped), 1))
        rho = self.share * (grid[list(span.skipped)] - grid[span.start]) / gap
        return np.stack([1.0 + rho, -rho], axis=1)
