"""Contract of a forecaster: the rule that fills a skipped step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from otcache_core.schedule import Span


class Forecaster(ABC):
    r"""A forecast that is linear in the computed outputs.

    .. math:: \hat v_t = \sum_{r=0}^{m-1} A_{t,r}\, v_{k_r}, \qquad t \in (k, j),\; k_0 = k

    so a forecaster is a small table of numbers, made without ever seeing a tensor; the executor
    applies it.
    """

    @abstractmethod
    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """The table A of one span.

        Called once per span, before the run. Must be pure and may not change its arguments, and may
        not look at the grid after s_j, where the span ends.

        Args:
            span: start k, stop j, earlier computed steps (latest first) and stored weights.
            grid: s_0 .. s_N, shape (N + 1,).

        Returns:
            Array of shape (len(span.skipped), m) with 1 <= m <= 1 + len(span.history); finite.
        """
