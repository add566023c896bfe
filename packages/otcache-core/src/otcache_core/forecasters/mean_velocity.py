"""MeanCache's forecasts: by the mean velocity of the last steps, skipped ones included."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import Forecaster
from otcache_core.errors import ScheduleError, expected
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
    repeated, at h = 1 and if s_i = s_a. The sum is what an Euler sampler in v does to x; no
    state is looked at.

    The lookback h is a whole number of steps for each span, stored as the weights of the span:
    ``(h of this span, h of the span before it, ...)``, at most one per computed output, since earlier
    forecasts are worked out again; 2 if there is none, as in a schedule without weights.

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
        """Unroll the recursion; shape (skipped, m).

        Raises:
            ScheduleError: if a lookback is not a whole number of 1 or more, or there are too many.
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


@final
class MeanVelocityPaper(Forecaster):
    r"""Move over the span (k -> j) with u, from the mean velocity since r = max(k - h, 0).

    .. math:: x_j = x_k + (s_j - s_k)\, u, \qquad u = v_k + (s_j - s_k)\, J_h, \qquad
        J_h = \frac{x_k - x_r - (s_k - s_r)\, \hat v_r}{(s_k - s_r)^2}

    In the executed form step k returns v_k untouched and every skipped step the same

    .. math:: \hat v_t = \frac{(s_j - s_k)\, u - (s_{k+1} - s_k)\, v_k}{s_j - s_{k+1}}
        = v_k + \frac{(s_j - s_k)^2}{s_j - s_{k+1}}\, J_h

    Here :math:`\hat v_r` and x_k - x_r, the sum of the executed steps of an Euler sampler, include
    skipped steps. J_h = 0, which is reuse, at h = 1, without history, and if a denominator is 0;
    also if r .. k-1 are skipped steps of one span, since they all return the same.

    The lookback h is stored as in :class:`~otcache_core.forecasters.MeanVelocity`: the weights of
    a span are ``(h of this span, h of the span before it, ...)``, 2 if there is none.

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
        """Return the same row for every skipped step; shape (skipped, m).

        Raises:
            ScheduleError: if a lookback is not a whole number of 1 or more, or there are too many.
        """
        return unroll(span, grid, _fill_paper)


def _fill_paper(v: Rows, s: Rows, k: int, j: int, h: int) -> None:
    r = max(k - h, 0)
    square, rest = float(s[k] - s[r]) ** 2, float(s[j] - s[k + 1])
    v[k + 1 : j] = v[k]
    if k - r > 1 and square != 0.0 and rest != 0.0:
        J = (np.diff(s[r : k + 1]) @ v[r:k] - (s[k] - s[r]) * v[r]) / square
        v[k + 1 : j] += (s[j] - s[k]) ** 2 / rest * J


Rows = NDArray[np.float64]
#: ``fill(v, s, k, j, h)`` writes v[k+1] .. v[j-1], given v[0] .. v[k], grid s and lookback h.
Fill = Callable[[Rows, Rows, int, int, int], None]
DEFAULT = 2


def lookbacks(span: Span) -> tuple[int, ...]:
    """Return h of a span, of the span before it, and so on: 1 + history numbers.

    They are the span's weights, latest first, one per computed output; 2 if there is none.

    Raises:
        ScheduleError: if there are more than computed outputs, or one is not a whole number >= 1.
    """
    where = f"span ({span.start} -> {span.stop})"
    available = 1 + len(span.history)
    if len(span.weights) > available:
        what = f"number of lookbacks of {where}"
        advice = "its own, then those of the spans before it."
        raise ScheduleError(expected(what, len(span.weights), f"at most {available}", advice))
    for h in span.weights:
        if h < 1 or h != int(h):
            wanted = "a whole number, 1 or more"
            advice = "weights of this forecaster are lookbacks h in steps; 1 is reuse."
            raise ScheduleError(expected(f"lookback of {where}", h, wanted, advice))
    found = tuple(int(h) for h in span.weights)
    return found + (DEFAULT,) * (available - len(found))


def unroll(span: Span, grid: NDArray[np.float64], fill: Fill) -> Rows:
    """Compute the table of a rule whose forecasts are themselves part of the history.

    Every output v_t up to the span's end is a row over the computed outputs: a unit row at a
    computed step, and at a skipped one whatever ``fill`` makes of the rows before it. It is called
    span by span from the first on, with steps counted from the first computed one, which in
    a schedule is 0.

    Args:
        span: start k, stop j, all earlier computed steps, and lookbacks as weights.
        grid: s_0 .. s_N, shape (N + 1,).
        fill: the rule.

    Returns:
        Shape (skipped, m), m up to the earliest output that is used.

    Raises:
        ScheduleError: as :func:`lookbacks`.
    """
    steps = (span.start, *span.history)
    h, first = lookbacks(span), steps[-1]
    s = grid[first : span.stop + 1]
    v = np.zeros((span.stop - first, len(steps)))
    for r in reversed(range(len(steps))):
        stop = steps[r - 1] if r else span.stop
        v[steps[r] - first, r] = 1.0
        fill(v, s, steps[r] - first, stop - first, h[r])
    table = v[span.start - first + 1 :]
    used = np.flatnonzero((table != 0).any(axis=0))
    return table[:, : 1 + int(used.max(initial=0))]
