r"""Strengths: forecast weights in a form that transfers to other budgets, gaps and grids.

A fitted weight c_r scales with the gaps around its span, so its value is valid for that span only. Its
*strength* transfers: the ratio of the weight to that of exact linear extrapolation through k and k_r,

.. math:: \theta_r = c_r / c_r^{\mathrm{lin}}, \qquad
    c_r^{\mathrm{lin}} = \frac{\sum_{t=k+1}^{j-1} (s_{t+1} - s_t)(s_t - s_k)}
                              {(s_k - s_{k_r})\,(s_j - s_{k+1})}, \qquad r \ge 1

(docs/theory.md, section 7.5). c_0 has no linear counterpart and is kept as it is: theta_0 = c_0. The
sum over r >= 1 is the share of the linear slope that is used: 1 is linear extrapolation, 0 is reuse.

A policy makes the weights of any budget from the strengths of two schedules, in well under a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from otcache_core.schedule import Schedule, Span

#: Smallest |c_r^lin| to divide by; below it the strength is set to 0. After a step of far higher noise
#: than all others (zero terminal SNR: sigma 4096) c_r^lin is almost 0: the ratio would be in the
#: hundreds, and other spans would use it.
UNIT = 1e-2

Floats = NDArray[np.float64]
Rows = tuple[tuple[float, ...], ...]


def linear_weights(span: Span, grid: NDArray[np.float64], memory: int) -> tuple[float, ...]:
    """Compute the weights c_r^lin of exact linear extrapolation through steps k and k_r, for each r alone.

    Args:
        span: start k, stop j and history k_1, k_2, ...
        grid: s_0 .. s_N, shape (N + 1,).
        memory: m, the number of computed outputs used, k included.

    Returns:
        (0, c_1^lin, c_2^lin, ...), min(m, 1 + history) numbers; 0 where nothing is skipped or a
        denominator is 0.
    """
    # Python floats: a span is too short for NumPy to be faster.
    s: list[float] = grid[span.start : span.stop + 1].tolist()
    moment = sum((after - now) * (now - s[0]) for now, after in pairwise(s[1:]))
    gaps = [s[0] - float(grid[past]) for past in span.history[: memory - 1]]
    length = s[-1] - s[1]
    return (0.0, *(moment / (gap * length) if gap * length else 0.0 for gap in gaps))


@np.errstate(over="ignore", invalid="ignore")  # Schedule checks that weights are finite
def linear_table(steps: Sequence[int], grid: Floats, memory: int) -> Floats:
    """Compute c_r^lin of all spans of a schedule at once; see :func:`linear_weights`.

    Args:
        steps: the B computed steps.
        grid: s_0 .. s_N, shape (N + 1,).
        memory: m.

    Returns:
        c_r^lin, shape (B, m); 0 if a span has no k_r, nothing is skipped or a denominator is 0.
    """
    k = np.asarray(steps)
    n = len(grid) - 1
    j = np.append(k[1:], n)
    # The term of step k itself is 0, so the sum over a span equals the sum over its skipped steps.
    terms = np.diff(grid) * (grid[:-1] - np.repeat(grid[k], j - k))
    moment = np.add.reduceat(terms, k)
    length = grid[j] - grid[k + 1]
    table = np.zeros((len(k), memory))
    for r in range(1, min(memory, len(k))):
        denominator = (grid[k[r:]] - grid[k[:-r]]) * length[r:]
        np.divide(moment[r:], denominator, out=table[r:, r], where=denominator != 0)
    return table


@dataclass(frozen=True, eq=False)
class StrengthTable:
    """Strengths of all spans and branches of a schedule, as a function of u = (m-1)/B.

    A span's row is as long as that of its longest branch; all rows are padded with zeros to the longest.

    Args:
        theta: theta_0 .. theta_{m-1} of each branch and span, shape (branches, B, m); 0 if unknown or
            beyond the row.
        length: length of each span's row before padding, shape (B,).
        skips: whether a span skips a step, shape (B,); the weights of others are never used.
    """

    theta: Floats
    length: NDArray[np.intp]
    skips: NDArray[np.bool_]

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")
    def of(
        cls, schedule: Schedule, grid: Floats, branches: Sequence[str | None] = (None,)
    ) -> StrengthTable:
        """Compute the strengths of a schedule on its grid s_0 .. s_N.

        A schedule without weights has those of its forecaster: ``linear`` is (0, 1), any other (0,).

        Args:
            schedule: weights c_0 .. c_{m-1} per span.
            grid: shape (N + 1,).
            branches: names; None, or a branch without weights of its own, gets the shared weights.
        """
        by_branch = dict(schedule.branch_weights)
        tables = [by_branch.get(name or "", schedule.weights) for name in branches]
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
        """Interpolate theta_0 .. theta_{length-1} of each branch at each u; shape (branches, len(u), length).

        Piecewise linear through the spans that skip a step and have a row of this length. If there is none,
        through all spans that skip a step, their rows resized (:func:`_resized`).
        """
        chosen = self.skips & (self.length == length)
        if not chosen.any():
            chosen = self.skips
        if not chosen.any():
            return np.zeros((len(self.theta), len(u), length))
        where = np.flatnonzero(chosen)
        nodes, rows = where / len(self.skips), _resized(self.theta[:, where], length)
        after = np.searchsorted(nodes, u, side="right")
        low, high = np.maximum(after - 1, 0), np.minimum(after, len(nodes) - 1)
        gap = nodes[high] - nodes[low]
        fraction = np.where(
            (gap > 0) & (after > 0), (u - nodes[low]) / np.where(gap > 0, gap, 1.0), 0
        )
        return np.asarray(rows[:, low] + fraction[:, None] * (rows[:, high] - rows[:, low]))


@np.errstate(over="ignore", invalid="ignore")
def resampled_weights(
    steps: Sequence[int],
    grid: Floats,
    ends: tuple[StrengthTable, StrengthTable],
    lam: float,
) -> list[Rows]:
    r"""Compute the weights of a schedule's spans from the strengths of two others.

    .. math:: c_r = \big( (1 - \lambda)\, \theta^{(1)}_r(u) + \lambda\, \theta^{(2)}_r(u) \big)
        c_r^{\mathrm{lin}}, \qquad u = (m-1)/B

    Args:
        steps: the B computed steps.
        grid: s_0 .. s_N of these steps, shape (N + 1,).
        ends: strengths of the two schedules, with the same branches.
        lam: lambda, in [0, 1].

    Returns:
        For each branch, one row per span, as long as memory and history allow; zeros where nothing is
        skipped.
    """
    budget, memory = len(steps), max(table.memory for table in ends)
    linear = linear_table(steps, grid, memory)
    linear[:, 0] = 1.0
    weights = np.zeros((len(ends[0].theta), budget, memory))
    u = np.arange(budget) / budget
    for length in range(1, min(memory, budget) + 1):
        # The m-th span has m computed outputs: each shorter length has one span, the full one all others.
        spans = slice(length - 1, length if length < memory else budget)
        low, high = (table.at(u[spans], length) for table in ends)
        theta = low if ends[0] is ends[1] else (1.0 - lam) * low + lam * high
        weights[:, spans, :length] = theta * linear[spans, :length]
    skips = np.diff(np.append(steps, len(grid) - 1)) > 1
    weights *= skips[:, None]
    tables = weights.tolist()
    return [tuple(tuple(row[: m + 1]) for m, row in enumerate(rows)) for rows in tables]


def _padded(rows: Rows, linear: Floats, forecaster: str) -> tuple[Floats, NDArray[np.intp]]:
    """Return the weights of one branch, shape (B, m), and the lengths of its rows, at least 1."""
    budget, memory = linear.shape
    if not rows:
        used = 2 if forecaster == "linear" else 1
        c = np.where(np.arange(memory) < used, linear, 0.0)
        return c, np.minimum(used, np.arange(budget) + 1)
    lengths = np.fromiter(map(len, rows), np.intp, budget)
    c = np.zeros((budget, memory))
    c[np.arange(memory) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.float64)
    return c, np.maximum(lengths, 1)


def _resized(rows: Floats, length: int) -> Floats:
    """Cut or pad the last axis to a length; strengths that are cut are added to the last one that stays."""
    memory = rows.shape[2]
    if length == memory:
        return rows
    kept = np.zeros((*rows.shape[:2], length))
    kept[:, :, :memory] = rows[:, :, :length]
    if 1 < length < memory:
        kept[:, :, -1] += rows[:, :, length:].sum(axis=2)
    return kept
