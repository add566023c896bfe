"""DOC"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from otcache_core.schedule import Schedule, Span

#: Least c_r^lin that strengths are measured in. A step at far greater noise than all others (zero
#: terminal signal: sigma 4096) has hardly a slope: in that unit any weight is a strength of hundreds,
#: which another span would take for its own.
UNIT = 1e-2
#: theta_0 .. theta_{m-1} of one span; None where nothing is skipped or c_r^lin is below ``UNIT``.
Row = tuple[float | None, ...]
#: Gives theta_0 .. theta_{length-1} at u = (m-1)/B for a span that has ``length`` computed outputs.
Curve = Callable[[float, int], tuple[float, ...]]


def linear_weights(span: Span, grid: NDArray[np.float64], memory: int) -> tuple[float, ...]:
    """The weights exact linear extrapolation would give, one r at a time.

    Args:
        span: start k, stop j and history k_1, k_2, ...
        grid: s_0 .. s_N, shape (N + 1,).
        memory: m, the number of computed outputs used, k included.

    Returns:
        (0, c_1^lin, c_2^lin, ...), min(m, 1 + history) numbers; 0 where nothing is skipped or a
        denominator is 0.
    """
    # Plain numbers: a span is too short for numpy to pay.
    s: list[float] = grid[span.start : span.stop + 1].tolist()
    moment = sum((after - now) * (now - s[0]) for now, after in pairwise(s[1:]))
    gaps = [s[0] - float(grid[past]) for past in span.history[: memory - 1]]
    length = s[-1] - s[1]
    return (0.0, *(moment / (gap * length) if gap * length else 0.0 for gap in gaps))


def strengths(
    schedule: Schedule, grid: NDArray[np.float64], branch: str | None = None
) -> tuple[Row, ...]:
    """theta of every span.

    A schedule without weights has those of its forecaster: ``linear`` is (0, 1), any other (0,).

    Args:
        schedule: weights c_0 .. c_{m-1} per span.
        grid: s_0 .. s_N, shape (N + 1,).
        branch: whose weights; the shared ones by default.

    Returns:
        One row a span, as long as its weights; theta_r is None (never NaN) where c_r^lin is below
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
        """The curve of a schedule, or of one branch of it, on its grid s_0 .. s_N."""
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
        """u and theta of the spans that count for rows of this length; kept for the next u."""
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
    """The curve (1 - lam) first + lam second."""

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


@lru_cache(maxsize=64)
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


@np.errstate(over="ignore", invalid="ignore")  # who makes a schedule of it sees that it is finite
def linear_table(steps: Sequence[int], grid: Floats, memory: int) -> Floats:
    """c_r^lin of every span, as :func:`~otcache_core.forecasters.strength.linear_weights`.

    Args:
        steps: the B computed steps.
        grid: s_0 .. s_N, shape (N + 1,).
        memory: m.

    Returns:
        Shape (B, m); 0 where there is no such history, nothing is skipped or a denominator is 0.
    """
    k = np.asarray(steps)
    n = len(grid) - 1
    j = np.append(k[1:], n)
    # The term of step k itself is 0, so a sum over the span is one over its skipped steps.
    terms = np.diff(grid) * (grid[:-1] - np.repeat(grid[k], j - k))
    moment = np.add.reduceat(terms, k)
    length = grid[j] - grid[k + 1]
    table = np.zeros((len(k), memory))
    for r in range(1, min(memory, len(k))):
        below = (grid[k[r:]] - grid[k[:-r]]) * length[r:]
        np.divide(moment[r:], below, out=table[r:, r], where=below != 0)
    return table


@dataclass(frozen=True, eq=False)
class StrengthTable:
    """theta of one schedule, as a function of u = (m-1)/B.

    Args:
        theta: theta_0 .. theta_{m-1} of each branch and span, 0 where unknown or not there; shape
            (branches, B, m).
        length: how long each span's row really is, shape (B,).
        skips: whether a span skips a step, shape (B,): the others say nothing.
    """

    theta: Floats
    length: NDArray[np.intp]
    skips: NDArray[np.bool_]

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")
    def of(
        cls, schedule: Schedule, grid: Floats, branches: Sequence[str | None] = (None,)
    ) -> StrengthTable:
        """The strengths of a schedule on its grid s_0 .. s_N.

        A schedule without weights has those of its forecaster: ``linear`` is (0, 1), any other (0,).

        Args:
            schedule: weights c_0 .. c_{m-1} per span.
            grid: shape (N + 1,).
            branches: names; None, and a branch without weights of its own, has the shared ones.
        """
        own = dict(schedule.branch_weights)
        tables = [own.get(name or "", schedule.weights) for name in branches]
        memory = max((len(row) for rows in tables for row in rows), default=0)
        memory = max(memory, 2 if schedule.forecaster == "linear" else 1)
        linear = linear_table(schedule.computed, grid, memory)
        padded = [_padded(rows, linear, schedule.forecaster) for rows in tables]
        theta, unit = np.stack([c for c, _ in padded]), linear[:, 1:]
        known = np.abs(unit) >= UNIT
        theta[:, :, 1:] = np.where(known, theta[:, :, 1:] / np.where(known, unit, 1.0), 0.0)
        steps = np.append(schedule.computed, schedule.num_steps)
        length = np.max([lengths for _, lengths in padded], axis=0)
        return cls(theta, length, np.diff(steps) > 1)

    @property
    def memory(self) -> int:
        """m, the length of the longest row."""
        return int(self.length.max())

    def at(self, u: Floats, length: int) -> Floats:
        """theta_0 .. theta_{length-1} of each branch at each u; shape (branches, len(u), length).

        Piecewise linear through the spans that skip a step and have a row of this length; where
        there is none, through all that skip one, with what lies beyond the length added to the last.
        """
        chosen = self.skips & (self.length == length)
        if not chosen.any():
            chosen = self.skips
        if not chosen.any():
            return np.zeros((len(self.theta), len(u), length))
        where = np.flatnonzero(chosen)
        nodes, rows = where / len(self.skips), _resized_rows(self.theta[:, where], length)
        after = np.searchsorted(nodes, u, side="right")
        low, high = np.maximum(after - 1, 0), np.minimum(after, len(nodes) - 1)
        gap = nodes[high] - nodes[low]
        part = np.where((gap > 0) & (after > 0), (u - nodes[low]) / np.where(gap > 0, gap, 1.0), 0)
        return np.asarray(rows[:, low] + part[:, None] * (rows[:, high] - rows[:, low]))


@np.errstate(over="ignore", invalid="ignore")
def resampled_weights(
    steps: Sequence[int],
    grid: Floats,
    ends: tuple[StrengthTable, StrengthTable],
    lam: float,
) -> list[Rows]:
    r"""Weights of a schedule's spans from the strengths of two others.

    .. math:: c_r = \big( (1 - \lambda)\, \theta^{(1)}_r(u) + \lambda\, \theta^{(2)}_r(u) \big)
        c_r^{\mathrm{lin}}, \qquad u = (m-1)/B

    Args:
        steps: the B computed steps.
        grid: s_0 .. s_N of these steps, shape (N + 1,).
        ends: the two, with the same branches.
        lam: in [0, 1].

    Returns:
        For each branch one row a span, as long as memory and history allow; zeros where nothing is
        skipped.
    """
    budget, memory = len(steps), max(table.memory for table in ends)
    linear = linear_table(steps, grid, memory)
    linear[:, 0] = 1.0
    weights = np.zeros((len(ends[0].theta), budget, memory))
    u = np.arange(budget) / budget
    for length in range(1, min(memory, budget) + 1):
        # The m-th span has m computed outputs: one span each of the shorter rows, then all others.
        spans = slice(length - 1, length if length < memory else budget)
        low, high = (table.at(u[spans], length) for table in ends)
        theta = low if ends[0] is ends[1] else (1.0 - lam) * low + lam * high
        weights[:, spans, :length] = theta * linear[spans, :length]
    skips = np.diff(np.append(steps, len(grid) - 1)) > 1
    weights *= skips[:, None]
    return [tuple(_trimmed(rows, memory)) for rows in weights.tolist()]


def _trimmed(rows: list[list[float]], memory: int) -> Iterator[tuple[float, ...]]:
    for m, row in enumerate(rows):
        yield tuple(row) if m + 1 >= memory else tuple(row[: m + 1])


def _padded(rows: Rows, linear: Floats, forecaster: str) -> tuple[Floats, NDArray[np.intp]]:
    """Weights of one branch, shape (B, m), and the lengths of its rows, at least 1."""
    budget, memory = linear.shape
    if not rows:
        used = 2 if forecaster == "linear" else 1
        c = np.where(np.arange(memory) < used, linear, 0.0)
        return c, np.minimum(used, np.arange(budget) + 1)
    lengths = np.fromiter(map(len, rows), np.intp, budget)
    c = np.zeros((budget, memory))
    c[np.arange(memory) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.float64)
    return c, np.maximum(lengths, 1)


def _resized_rows(rows: Floats, length: int) -> Floats:
    """The last axis cut or padded to a length; what is cut is added to the last slope that stays."""
    memory = rows.shape[2]
    if length == memory:
        return rows
    kept = np.zeros((*rows.shape[:2], length))
    kept[:, :, :memory] = rows[:, :, :length]
    if 1 < length < memory:
        kept[:, :, -1] += rows[:, :, length:].sum(axis=2)
    return kept
