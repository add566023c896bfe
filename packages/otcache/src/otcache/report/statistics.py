"""Means over samples, with the doubt that belongs to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected

Floats = NDArray[np.float64]
RESAMPLES = 4000
LEVEL = 0.05


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


@dataclass(frozen=True)
class WinRate:
    """How often a is better than b.

    Attributes:
        rate: share of the pairs that a wins, a tie counted as half a win, with its interval.
        wins, ties, losses: pairs, ties being equal values: identical pictures on both sides.
    """

    rate: Interval
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class TagHarm:
    """How much more a method loses on the prompts of one tag than on the rest.

    Attributes:
        tag: which.
        excess: mean loss on the tag less mean loss on the rest, above 0 where the tag is hurt more;
            ``count`` is the prompts of the tag.
        p: one-sided p-value of "no more than on the rest"; 1 where a side has fewer than 2 prompts.
        adjusted: the same, corrected over the tags (Holm).
    """

    tag: str
    excess: Interval
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        """Whether to warn: at 5 %, over all tags together."""
        return self.adjusted < LEVEL


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


def win_rate(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence[int] | None = None,
    *,
    higher_is_better: bool = False,
    seed: int = 0,
) -> WinRate:
    """Share of pairs in which a is better than b, its interval as :func:`mean_interval` makes it.

    Where a wins every pair the bootstrap knows no doubt: the interval is a point, and the count says
    what it is worth.

    Raises:
        OtcacheError: if the lengths differ, or as :func:`mean_interval` raises.
    """
    x, y = _pair(a, b)
    better, worse = (x > y, x < y) if higher_is_better else (x < y, x > y)
    scores = np.where(better, 1.0, np.where(worse, 0.0, 0.5))
    wins, losses = int(better.sum()), int(worse.sum())
    rate = mean_interval(scores, groups, seed=seed)
    return WinRate(rate, wins, len(x) - wins - losses, losses)


def tag_harm(
    a: ArrayLike,
    b: ArrayLike,
    tags: Sequence[str],
    groups: Sequence[int] | None = None,
    *,
    higher_is_better: bool = False,
    seed: int = 0,
) -> tuple[TagHarm, ...]:
    r"""Does method a, beside method b, lose more on one tag than on all the others?

    With D the mean of a - b over the samples of a prompt (b - a where higher is better), the excess
    of tag t is :math:`\bar D_t - \bar D_{\neg t}`. Its interval is a percentile bootstrap over
    prompts, drawn within the tag and within the rest. Its p-value is that of Welch's statistic among
    random permutations of the tags: unlike a bootstrap p-value, it keeps its 5 % on a handful of
    skewed values (in simulations with 8 prompts a tag the bootstrap's was up to 20 %). Holm's
    correction then holds the chance of any false warning over all tags at 5 %. It knows nothing of
    other metrics, budgets and methods: over many calls some will warn by chance.

    A pair infinite on both sides differs by 0, a pair infinite on one side is left out.

    References:
        Janssen: Studentized permutation tests for non-i.i.d. hypotheses and the generalized
        Behrens-Fisher problem, 1997, https://doi.org/10.1016/S0167-7152(97)00043-6.
        Holm: A simple sequentially rejective multiple test procedure, 1979.

    Args:
        a: the metric of the method in question, one value a sample.
        b: that of the method it is compared with, same samples.
        tags: of each sample; all samples of a prompt have one.
        groups: number of each sample's prompt; None if every sample is its own.
        higher_is_better: of the metric.
        seed: of the draws.

    Returns:
        One entry a tag, in order of first appearance; none if there are fewer than two tags.

    Raises:
        OtcacheError: if lengths differ, a value is NaN, or a prompt has two tags.
    """
    loss, labels = _prompt_losses(a, b, tags, groups, higher_is_better)
    names = list(dict.fromkeys(labels))
    if len(names) < 2:
        return ()
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(loss, (RESAMPLES, 1)), axis=1)
    found = []
    for tag in names:
        inside = np.array([label == tag for label in labels])
        excess = _excess(loss[inside], loss[~inside], rng)
        found.append((tag, excess, _p_value(loss, shuffled, inside)))
    adjusted = _holm([p for _, _, p in found])
    return tuple(TagHarm(*entry, q) for entry, q in zip(found, adjusted, strict=True))


def _prompt_losses(
    a: ArrayLike,
    b: ArrayLike,
    tags: Sequence[str],
    groups: Sequence[int] | None,
    higher_is_better: bool,
) -> tuple[Floats, list[str]]:
    """D and the tag of each prompt that has a finite value."""
    x, y = _pair(a, b)
    prompts = list(groups) if groups is not None else list(range(len(x)))
    if not len(tags) == len(prompts) == len(x):
        got = f"{len(tags)} tags, {len(prompts)} prompts"
        raise OtcacheError(expected("tags and groups", got, f"one for each of the {len(x)} values"))
    same = np.isinf(x) & np.isinf(y)
    difference = np.where(same, 0.0, x - np.where(same, 0.0, y))
    parts: dict[int, list[float]] = {}
    tag_of: dict[int, str] = {}
    for prompt, tag, d in zip(prompts, tags, difference, strict=True):
        if tag_of.setdefault(prompt, tag) != tag:
            raise OtcacheError(expected(f"tags of prompt {prompt}", (tag_of[prompt], tag), "one"))
        if math.isfinite(d):
            parts.setdefault(prompt, []).append(float(d))
    losses = np.array([sum(d) / len(d) for d in parts.values()], dtype=np.float64)
    return (-losses if higher_is_better else losses), [tag_of[prompt] for prompt in parts]


def _excess(inside: Floats, outside: Floats, rng: np.random.Generator) -> Interval:
    drawn = [
        v[rng.integers(len(v), size=(RESAMPLES, len(v)))].mean(axis=1) for v in (inside, outside)
    ]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    mean = float(inside.mean() - outside.mean())
    return Interval(mean, float(low), float(high), len(inside))


def _p_value(loss: Floats, shuffled: Floats, inside: NDArray[np.bool_]) -> float:
    if min(inside.sum(), (~inside).sum()) < 2:
        return 1.0
    seen, drawn = (_welch(v[..., inside], v[..., ~inside]) for v in (loss, shuffled))
    reached = drawn >= seen - 1e-6 * (1 + abs(seen))  # rounding must not part equal ones
    return float((1 + reached.sum()) / (1 + RESAMPLES))


def _welch(x: Floats, y: Floats) -> Floats:
    """Difference of means over its standard error, along the last axis."""
    square = x.var(axis=-1, ddof=1) / x.shape[-1] + y.var(axis=-1, ddof=1) / y.shape[-1]
    least = 1e-9 * (np.abs(x).max() + np.abs(y).max()) + np.finfo(np.float64).tiny
    return np.asarray((x.mean(axis=-1) - y.mean(axis=-1)) / np.maximum(np.sqrt(square), least))


def _holm(p: Sequence[float]) -> list[float]:
    """The k-th smallest times (n - k + 1), never below a smaller one's, at most 1."""
    adjusted, highest = [0.0] * len(p), 0.0
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - k) * p[i]))
        adjusted[i] = highest
    return adjusted


@lru_cache(maxsize=8)
def _draws(count: int, seed: int) -> Floats:
    """How often each of ``count`` groups is drawn, shape (resamples, count); read only."""
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
