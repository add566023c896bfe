"""One mean velocity for the whole span: MeanCache as its paper has it."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.forecasters.lookback import Rows, unroll
from otcache_core.schedule import Span


@final
class MeanVelocityPaper(Forecaster):
    r"""Move over the span (k -> j) with u, from the mean velocity since r = max(k - h, 0).

    .. math:: x_j = x_k + (s_j - s_k)\, u, \qquad u = v_k + (s_j - s_k)\, J_h, \qquad
        J_h = \frac{x_k - x_r - (s_k - s_r)\, \hat v_r}{(s_k - s_r)^2}

    In the executed form step k returns v_k untouched and every skipped step the same

    .. math:: \hat v_t = \frac{(s_j - s_k)\, u - (s_{k+1} - s_k)\, v_k}{s_j - s_{k+1}}
        = v_k + \frac{(s_j - s_k)^2}{s_j - s_{k+1}}\, J_h

    where :math:`\hat v_r` and x_k - x_r, the sum of the executed steps of an Euler sampler, include
    skipped steps. J_h = 0, which is reuse, at h = 1, without history, and where a denominator is 0;
    also where r .. k-1 are skipped steps of one span, since they all return the same.

    The lookback h is stored as in :class:`~otcache_core.forecasters.MeanVelocity`: the weights of
    a span are ``(h of this span, h of the span before it, ...)``, 2 where there is none.

    Memory: forecasts rest on forecasts, so all computed outputs may be needed.

    References:
        MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference
        (2026), https://arxiv.org/abs/2601.19961; docs/theory.md, sections 7.1 (executed form) and 9.2.

    Examples:
        >>> grid = np.linspace(1.0, 0.0, 11)
        >>> MeanVelocityPaper().coefficients(Span(2, 4, (1, 0)), grid).round(6).tolist()
        [[1.0, 1.0, -1.0]]
    """

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same row for every skipped step; shape (skipped, m).

        Raises:
            ScheduleError: if a lookback is no whole number of 1 or more, or there are too many.
        """
        return unroll(span, grid, _fill_paper)


def _fill_paper(v: Rows, s: Rows, k: int, j: int, h: int) -> None:
    r = max(k - h, 0)
    square, rest = float(s[k] - s[r]) ** 2, float(s[j] - s[k + 1])
    v[k + 1 : j] = v[k]
    if k - r > 1 and square != 0.0 and rest != 0.0:
        J = (np.diff(s[r : k + 1]) @ v[r:k] - (s[k] - s[r]) * v[r]) / square
        v[k + 1 : j] += (s[j] - s[k]) ** 2 / rest * J
