"""Rules that look back on skipped steps too, as tables over the computed outputs alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import ScheduleError, expected
from otcache_core.schedule import Span

Rows = NDArray[np.float64]
#: ``fill(v, s, k, j, h)`` writes v[k+1] .. v[j-1], given v[0] .. v[k], grid s and lookback h.
Fill = Callable[[Rows, Rows, int, int, int], None]
DEFAULT = 2


def lookbacks(span: Span) -> tuple[int, ...]:
    """h of a span, of the span before it, and so on: 1 + history numbers.

    They are the span's weights, latest first, one a computed output; 2 where there is none.

    Raises:
        ScheduleError: if there are more than computed outputs, or one is no whole number >= 1.
    """
    where = f"span ({span.start} -> {span.stop})"
    available = 1 + len(span.history)
    if len(span.weights) > available:
        what = f"number of lookbacks of {where}"
        advice = "its own, then those of the spans before it."
        raise ScheduleError(expected(what, len(span.weights), f"at most {available}", advice))
    for h in span.weights:
        if h < 1 or h != int(h):
            raise ScheduleError(
                expected(
                    f"lookback of {where}",
                    h,
                    "a whole number, 1 or more",
                    "weights of this forecaster are lookbacks h in steps; 1 is reuse.",
                )
            )
    found = tuple(int(h) for h in span.weights)
    return found + (DEFAULT,) * (available - len(found))


def unroll(span: Span, grid: NDArray[np.float64], fill: Fill) -> Rows:
    """The table of a rule whose forecasts are themselves part of the history.

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
