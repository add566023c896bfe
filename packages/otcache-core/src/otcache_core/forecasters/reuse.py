"""Repeat the last computed output."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.schedule import Span


@final
class Reuse(Forecaster):
    r"""Zeroth order: the denoiser is taken as constant over the span.

    .. math:: \hat v_t = v_k

    Under a deterministic one-step sampler this is sampling on the computed steps alone
    (docs/theory.md, section 2).
    """

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """A = 1, shape (skipped, 1)."""
        return np.ones((len(span.skipped), 1))
