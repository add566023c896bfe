"""Strengths span by span, by their definition: the oracle for ``StrengthTable``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from otcache_core.forecasters.strength import UNIT, linear_weights
from otcache_core.schedule import Schedule, Span

#: theta_0 .. theta_{m-1} of one span; None where nothing is skipped or c_r^lin is below ``UNIT``.
Row = tuple[float | None, ...]
#: Gives theta_0 .. theta_{length-1} at u = (m-1)/B for a span that has ``length`` computed outputs.
Curve = Callable[[float, int], tuple[float, ...]]


def strengths(
    schedule: Schedule, grid: NDArray[np.float64], branch: str | None = None
) -> tuple[Row, ...]:
    """Theta of every span.

    A schedule without weights has those of its forecaster: ``linear`` is (0, 1), any other (0,).

    Args:
        schedule: weights c_0 .. c_{m-1} per span.
        grid: s_0 .. s_N, shape (N + 1,).
        branch: whose weights; the shared ones by default.

    Returns:
        One row per span, as long as its weights; theta_r is None (never NaN) where c_r^lin is below
        ``UNIT``, and the whole row where nothing is skipped, since weights do nothing there.
    """
    return tuple(_row(span, schedule.forecaster, grid) for span in schedule.spans(branch))


def _row(span: Span, forecaster: str, grid: NDArray[np.float64]) -> Row:
    c = span.weights
    if not c and forecaster == "linear":
        c = linear_weights(span, grid, memory=2)
    c = c or (0.0,)
    if not span.skipped:
        return (None,) * len(c)
    lin = linear_weights(span, grid, memory=len(c))
    slopes = (a / b if abs(b) >= UNIT else None for a, b in zip(c[1:], lin[1:], strict=True))
    return (c[0], *slopes)


@dataclass(frozen=True)
class StrengthCurve:
    """theta as a function of u = (m-1)/B, piecewise linear through the spans of one schedule.

    Spans with as many outputs to use are compared with one another: early spans of a schedule have
    less history than memory. Where a schedule has no such span that skips a step, the others stand
    in, their strengths beyond the available history added to the last one that exists (so the
    total slope is kept), missing ones taken as 0.

    Args:
        rows: as :func:`strengths` gives them.
    """

    rows: tuple[Row, ...]

    @classmethod
    def of(
        cls, schedule: Schedule, grid: NDArray[np.float64], branch: str | None = None
    ) -> StrengthCurve:
        """Return the curve of a schedule, or of one branch of it, on its grid s_0 .. s_N."""
        return cls(strengths(schedule, grid, branch))

    @property
    def memory(self) -> int:
        """m, the length of the longest row."""
        return max((len(row) for row in self.rows), default=1)

    def __call__(self, u: float, length: int) -> tuple[float, ...]:
        """theta_0 .. theta_{length-1} at u; zeros where no span skips a step."""
        nodes, rows = self._nodes(length)
        if not nodes:
            return (0.0,) * length
        at = bisect_right(nodes, u)
        if at in (0, len(nodes)):
            return rows[max(at - 1, 0)]
        part = (u - nodes[at - 1]) / (nodes[at] - nodes[at - 1])
        pairs = zip(rows[at - 1], rows[at], strict=True)
        return tuple(a + part * (b - a) for a, b in pairs)

    def _nodes(self, length: int) -> tuple[list[float], list[tuple[float, ...]]]:
        """U and theta of the spans that count for rows of this length; kept for the next u."""
        if length not in self._kept:
            known = [(m, row) for m, row in enumerate(self.rows) if row[0] is not None]
            known = [item for item in known if len(item[1]) == length] or known
            nodes = [m / len(self.rows) for m, _ in known]
            self._kept[length] = nodes, [_resized_row(row, length) for _, row in known]
        return self._kept[length]

    @cached_property
    def _kept(self) -> dict[int, tuple[list[float], list[tuple[float, ...]]]]:
        return {}


def blend(first: Curve, second: Curve, lam: float) -> Curve:
    """Return the curve (1 - lam) first + lam second."""

    def curve(u: float, length: int) -> tuple[float, ...]:
        pairs = zip(first(u, length), second(u, length), strict=True)
        return tuple((1.0 - lam) * a + lam * b for a, b in pairs)

    return curve


def weights_from_strengths(
    schedule: Schedule, curve: Curve, grid: NDArray[np.float64], memory: int
) -> tuple[tuple[float, ...], ...]:
    """Weights of a schedule's spans: c_r = theta_r(u) c_r^lin, u = (m-1)/B, c_0 = theta_0(u).

    Spans that skip nothing get zeros. Inverse of :func:`strengths` on the spans that skip a step,
    where every row is as long as memory and history allow.

    Args:
        schedule: the computed steps; its weights are not looked at.
        curve: theta, such as a :class:`StrengthCurve` or a :func:`blend` of two.
        grid: s_0 .. s_N of these steps, shape (N + 1,).
        memory: m.
    """
    rows = []
    linear = _linear_rows(schedule.computed, schedule.num_steps, tuple(grid.tolist()), memory)
    for m, (lin, skips) in enumerate(linear):
        if not skips:
            rows.append((0.0,) * len(lin))
            continue
        theta = curve(m / schedule.budget, len(lin))
        slopes = (a * b for a, b in zip(theta[1:], lin[1:], strict=True))
        rows.append((theta[0], *slopes))
    return tuple(rows)


def _linear_rows(
    computed: tuple[int, ...], num_steps: int, grid: tuple[float, ...], memory: int
) -> list[tuple[tuple[float, ...], bool]]:
    """c^lin of each span, the same for all branches, and whether the span skips a step."""
    spans, points = Schedule(num_steps, computed).spans(), np.array(grid)
    return [(linear_weights(span, points, memory), bool(span.skipped)) for span in spans]


def _resized_row(row: Row, length: int) -> tuple[float, ...]:
    theta = [value or 0.0 for value in row] + [0.0] * (length - len(row))
    if 1 < length < len(theta):
        theta[length - 1] += sum(theta[length:])
    return tuple(theta[:length])


Floats = NDArray[np.float64]
Rows = tuple[tuple[float, ...], ...]
