"""Means over samples, with the doubt that belongs to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected

Floats = NDArray[np.float64]
RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval.

    Attributes:
        mean: the figure itself, over the finite values; ``inf`` if there is none.
        low, high: its 95 % interval.
        count: samples it was made of, the infinite ones not counted.
        infinite: samples left out because they are infinite: identical pictures under PSNR.
    """

    mean: float
    low: float
    high: float
    count: int
    infinite: int = 0

    @property
    def half(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2 if math.isfinite(self.mean) else 0.0


def mean_interval(
    values: ArrayLike, groups: Sequence[int] | None = None, *, seed: int = 0
) -> Interval:
    r"""Mean of the finite values with a percentile bootstrap interval.

    With groups g (the prompt of each sample) whole groups are drawn with replacement, since samples
    of one prompt resemble each other: the mean of a draw is
    :math:`\sum_g n_g S_g / \sum_g n_g N_g`, S_g the group's sum, N_g its size, n_g how often it was
    drawn. Percentile intervals of few groups are somewhat too short.

    References:
        Efron, Tibshirani: An introduction to the bootstrap, 1993, chapter 13.

    Args:
        values: shape (n,); +inf is allowed, counted and left out.
        groups: n group numbers; None, or all alike, draws samples.
        seed: of the draws.

    Raises:
        OtcacheError: if there is no value, one is NaN or -inf, or the lengths differ.
    """
    v = _vector("values", values)
    finite = np.isfinite(v)
    if not finite.any():
        return Interval(math.inf, math.inf, math.inf, 0, len(v))
    sums, sizes = _group_sums(groups, v, finite)
    draws = _draws(len(sizes), seed)
    drawn = draws @ sizes
    means = (draws @ sums)[drawn > 0] / drawn[drawn > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(v[finite].mean())
    return Interval(mean, float(low), float(high), int(finite.sum()), int((~finite).sum()))


def paired_difference(
    a: ArrayLike, b: ArrayLike, groups: Sequence[int] | None = None, *, seed: int = 0
) -> Interval:
    """Mean of a - b over pairs, as :func:`mean_interval` does.

    A pair infinite on both sides (both pictures identical) differs by 0; a pair infinite on one
    side has no difference and is counted in ``infinite``.

    Raises:
        OtcacheError: if the lengths differ, or as :func:`mean_interval` raises.
    """
    x, y = _pair(a, b)
    same = np.isinf(x) & np.isinf(y)
    difference = np.where(same, 0.0, x - np.where(same, 0.0, y))
    return mean_interval(np.where(np.isinf(difference), np.inf, difference), groups, seed=seed)


def paired_ratio(
    a: ArrayLike, b: ArrayLike, groups: Sequence[int] | None = None, *, seed: int = 0
) -> Interval:
    """Ratio of means, mean(a) / mean(b), the same samples drawn for both.

    Raises:
        OtcacheError: if the lengths differ, values are not finite, or b is 0 throughout.
    """
    x, y = _pair(a, b)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.all():
        raise OtcacheError("a ratio of means needs finite values: compare RMSE, not PSNR.")
    if not np.any(y):
        raise OtcacheError("a ratio of means needs a divisor above 0, got zeros throughout.")
    above, _ = _group_sums(groups, x, finite)
    below, _ = _group_sums(groups, y, finite)
    draws = _draws(len(above), seed)
    denominators = draws @ below
    usable = denominators != 0
    low, high = np.percentile((draws @ above)[usable] / denominators[usable], [2.5, 97.5])
    return Interval(float(x.mean() / y.mean()), float(low), float(high), len(x))


def _draws(count: int, seed: int) -> Floats:
    """How often each of ``count`` groups is drawn, shape (resamples, count)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def _group_sums(
    groups: Sequence[int] | None, v: Floats, finite: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    if groups is not None and len(groups) != len(v):
        raise OtcacheError(expected("groups", len(groups), f"{len(v)} numbers"))
    several = groups is not None and len(set(groups)) > 1
    _, g = np.unique(groups if several and groups else np.arange(len(v)), return_inverse=True)
    sums: Floats = np.bincount(g, np.where(finite, v, 0.0)).astype(np.float64)
    sizes: Floats = np.bincount(g, finite).astype(np.float64)
    return sums, sizes


def _vector(what: str, values: ArrayLike) -> Floats:
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 1 or not len(v):
        raise OtcacheError(expected(what, f"shape {v.shape}", "at least one number a sample"))
    if np.isnan(v).any() or np.isneginf(v).any():
        raise OtcacheError(f"{what} must be numbers, got NaN or -inf.")
    return v


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = _vector("a", a), _vector("b", b)
    if len(x) != len(y):
        raise OtcacheError(expected("b", f"{len(y)} values", f"{len(x)}, one for each of a's"))
    return x, y
