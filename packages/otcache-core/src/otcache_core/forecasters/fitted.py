"""Combine the last m computed outputs with weights fitted at calibration."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.errors import ScheduleError, expected
from otcache_core.schedule import Span


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
                expected(what, len(span.weights), f"at most {available}", "one a computed step.")
            )
        c = np.asarray(span.weights or (0.0,), dtype=np.float64)
        row = np.concatenate([[1.0 + c.sum()], -c[1:]])
        return np.tile(row, (len(span.skipped), 1))
