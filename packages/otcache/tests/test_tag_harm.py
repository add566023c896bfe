"""Warnings about tags: rare where there is nothing, frequent where harm was planted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache.report.statistics import TagHarm, tag_harm
from otcache_core import OtcacheError

TAGS = ("shape", "pair", "glyph", "emoji")
LABELS = tuple(tag for tag in TAGS for _ in range(8))
Noise = Callable[[np.random.Generator], NDArray[np.float64]]


def trial(seed: int, noise: Noise, harm: float = 0.0) -> tuple[TagHarm, ...]:
    """One comparison of 32 prompts; ``harm`` is added to the glyphs'."""
    rng = np.random.default_rng(seed)
    b = rng.exponential(1.0, 32)  # hard prompts are hard for both
    a = b + noise(rng) + harm * np.array([label == "glyph" for label in LABELS])
    return tag_harm(a + 10, b + 10, LABELS, seed=seed)


@pytest.mark.parametrize(
    "noise",
    [
        lambda rng: rng.normal(0.0, 1.0, 32),
        lambda rng: rng.exponential(1.0, 32),
        lambda rng: -rng.exponential(1.0, 32),
    ],
    ids=["normal", "skewed up", "skewed down"],
)
def test_a_false_warning_over_all_tags_is_a_matter_of_five_percent(noise: Noise) -> None:
    """150 comparisons without harm: 7.5 warn on average, more than 16 in 1 of 500 rounds."""
    warned = sum(any(h.significant for h in trial(seed, noise)) for seed in range(150))
    assert warned <= 16


def test_p_values_are_uniform_where_there_is_nothing() -> None:
    found = [trial(seed, lambda rng: rng.normal(0.0, 1.0, 32))[2].p for seed in range(150)]
    for level in (0.1, 0.5, 0.9):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.11)


def test_planted_harm_is_found_and_only_there() -> None:
    """1.5 standard deviations on 8 prompts against 24: Welch's t is 3.7 on average."""
    found = [trial(seed, lambda rng: rng.normal(0.0, 1.0, 32), harm=1.5) for seed in range(40)]
    assert np.mean([harms[2].significant for harms in found]) > 0.75
    others = [harms[i].significant for harms in found for i in (0, 1, 3)]
    assert np.mean(others) < 0.03
    assert np.mean([harms[2].excess.mean for harms in found]) == pytest.approx(1.5, abs=0.15)
    covered = [harms[2].excess.low <= 1.5 <= harms[2].excess.high for harms in found]
    assert np.mean(covered) > 0.8


def test_a_gain_is_no_harm() -> None:
    harms = trial(0, lambda rng: rng.normal(0.0, 0.2, 32), harm=-2.0)
    assert harms[2].p > 0.99
    assert harms[2].excess.high < 0


def test_the_p_value_is_the_share_of_all_relabellings() -> None:
    """Three prompts of seven: 35 ways to choose them, Welch's t of each by its definition."""
    values = np.array([0.9, 1.4, 2.0, 0.1, 0.8, 0.3, 1.0])

    def t(chosen: tuple[int, ...]) -> float:
        x, y = values[list(chosen)], np.delete(values, chosen)
        error = math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
        return float((x.mean() - y.mean()) / error)

    ways = [t(chosen) for chosen in itertools.combinations(range(7), 3)]
    share = np.mean([way >= t((0, 1, 2)) - 1e-9 for way in ways])
    found = tag_harm(values, np.zeros(7), ("a",) * 3 + ("b",) * 4)[0]
    assert found.p == pytest.approx(share, abs=0.01)


def test_holm_multiplies_the_smallest_by_the_number_of_tags() -> None:
    harms = sorted(trial(3, lambda rng: rng.normal(0.0, 1.0, 32)), key=lambda h: h.p)
    assert harms[0].adjusted == pytest.approx(min(1.0, 4 * harms[0].p))
    assert [h.adjusted for h in harms] == sorted(h.adjusted for h in harms)
    assert all(p.adjusted >= p.p for p in harms)


def test_samples_of_one_prompt_are_one_prompt() -> None:
    values = np.random.default_rng(0).normal(size=32)
    alone = tag_harm(values, np.zeros(32), LABELS)
    twice = tag_harm(
        np.repeat(values, 2),
        np.zeros(64),
        tuple(np.repeat(LABELS, 2)),
        np.repeat(np.arange(32), 2).tolist(),
    )
    assert [(h.p, h.excess) for h in twice] == [(h.p, h.excess) for h in alone]


def test_higher_is_better_turns_it_round() -> None:
    a, b = np.random.default_rng(0).random((2, 32))
    assert tag_harm(a, b, LABELS) == tag_harm(b, a, LABELS, higher_is_better=True)


def test_values_that_are_all_alike_are_no_harm() -> None:
    for h in tag_harm(np.full(32, 0.3), np.full(32, 0.1), LABELS):
        assert (h.p, h.adjusted, h.significant) == (1.0, 1.0, False)
        assert h.excess.mean == pytest.approx(0.0, abs=1e-15)


def test_identical_pictures_differ_by_nothing_and_half_identical_ones_are_left_out() -> None:
    a = [math.inf, math.inf, 3.0, 2.0, 5.0]
    b = [math.inf, 20.0, 1.0, 1.0, 1.0]
    x, y = tag_harm(a, b, ("x", "x", "x", "y", "y"))
    assert x.excess.mean == pytest.approx((0.0 + 2.0) / 2 - (1.0 + 4.0) / 2)
    assert (x.excess.count, y.excess.count) == (2, 2)


def test_one_prompt_tells_nothing_and_one_tag_has_no_rest() -> None:
    found = tag_harm([9.0, 1.0, 2.0], [0.0] * 3, ("x", "y", "y"))
    assert [h.p for h in found] == [1.0, 1.0]
    assert tag_harm([1.0, 2.0], [0.0, 0.0], ("x", "x")) == ()


def test_bad_input_is_refused() -> None:
    with pytest.raises(OtcacheError, match="1 tags, 2 prompts"):
        tag_harm([1.0, 2.0], [0.0, 0.0], ("x",))
    with pytest.raises(OtcacheError, match=r"tags of prompt 0 must be one, got \('x', 'y'\)"):
        tag_harm([1.0, 2.0], [0.0, 0.0], ("x", "y"), [0, 0])
    with pytest.raises(OtcacheError, match="a must be numbers"):
        tag_harm([math.nan], [0.0], ("x",))
