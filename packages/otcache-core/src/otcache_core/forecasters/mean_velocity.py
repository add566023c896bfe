"""Correct the last output by how the velocity changed over the last steps: MeanCache as released."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.forecasters.lookback import Rows, unroll
from otcache_core.schedule import Span


@final
class MeanVelocity(Forecaster):
    r"""Step by step, from the mean velocity since the step a = max(i - h, 0).

    .. math:: \hat v_i = \hat v_{i-1} - (s_{i+1} - s_i)\, J, \qquad
        J = \frac{\hat v_a - \bar v}{s_i - s_a}, \qquad
        \bar v = \frac{x_i - x_a}{s_i - s_a}
               = \frac{1}{s_i - s_a} \sum_{t=a}^{i-1} (s_{t+1} - s_t)\, \hat v_t

    with :math:`\hat v = v` at computed steps: the history includes skipped steps. Since the mean of
    a linear v lies halfway, -J is *half* its slope. J = 0, so the output before is
    repeated, at h = 1 and where s_i = s_a. The sum is what an Euler sampler in v does to x; no
    state is looked at.

    The lookback h is a whole number of steps for each span, stored as the weights of the span:
    ``(h of this span, h of the span before it, ...)``, at most one a computed output, since earlier
    forecasts are worked out again; 2 where there is none, as in a schedule without weights.

    Memory: forecasts rest on forecasts, so all computed outputs may be needed.

    References:
        MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference
        (2026), https://arxiv.org/abs/2601.19961; the rule is that of the authors' released
        sampler, https://github.com/UnicomAI/MeanCache, which uses h from 1 to 6. docs/theory.md,
        section 9.2.

    Examples:
        >>> grid = np.linspace(1.0, 0.0, 11)
        >>> MeanVelocity().coefficients(Span(1, 3, (0,)), grid).round(6).tolist()
        [[1.25, -0.25]]
        >>> MeanVelocity().coefficients(Span(1, 3, (0,), (1.0,)), grid).tolist()
        [[1.0]]
    """

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """The recursion unrolled; shape (skipped, m).

        Raises:
            ScheduleError: if a lookback is no whole number of 1 or more, or there are too many.
        """
        return unroll(span, grid, _fill_released)


def _fill_released(v: Rows, s: Rows, k: int, j: int, h: int) -> None:
    steps = np.diff(s)
    for i in range(k + 1, j):
        a = max(i - h, 0)
        gap = float(s[i] - s[a])
        v[i] = v[i - 1]
        if i - a > 1 and gap != 0.0:
            mean = steps[a:i] @ v[a:i] / gap
            v[i] -= steps[i] * ((v[a] - mean) / gap)
