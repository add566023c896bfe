"""P-values of tags: uniform if there is nothing, small if a regression was planted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache.report.analysis import LEVEL, tag_regressions
from otcache.report.results import Cell, Results
from otcache.report.statistics import tag_p_value
from otcache_core import OtcacheError

TAGS = ("shape", "pair", "glyph", "emoji")
LABELS = np.repeat(TAGS, 8)
GLYPHS = tuple((LABELS == "glyph").tolist())
Noise = Callable[[np.random.Generator], NDArray[np.float64]]


def normal(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(0.0, 1.0, 32)


def trial(seed: int, noise: Noise, loss: float = 0.0) -> tuple[NDArray[np.float64], ...]:
    """Two methods on 32 prompts; ``loss`` is added to the first on glyphs."""
    rng = np.random.default_rng(seed)
    b = rng.exponential(1.0, 32)  # hard prompts are hard for both
    return b + noise(rng) + loss * (LABELS == "glyph") + 10, b + 10


def regressions(seed: int, noise: Noise, loss: float = 0.0) -> dict[str, float]:
    """Return tags that are reported, and their corrected p-values."""
    a, b = trial(seed, noise, loss)
    cell = Cell("otcache", 5, 5, 6.0, None, None, {"theirs": tuple(map(float, a - b))})
    labels = tuple((f"prompt {i}", 0, str(tag)) for i, tag in enumerate(LABELS))
    return {one.tag: one.p for one in tag_regressions(Results("toy", 30, labels, (cell,)))}


@pytest.mark.parametrize(
    "noise",
    [
        normal,
        lambda rng: rng.exponential(1.0, 32),
        lambda rng: -rng.exponential(1.0, 32),
    ],
    ids=["normal", "skewed up", "skewed down"],
)
def test_a_false_warning_over_all_tags_is_a_matter_of_five_percent(noise: Noise) -> None:
    """150 comparisons without a regression: 7.5 warn on average, more than 16 in 1 of 500 rounds."""
    assert sum(bool(regressions(seed, noise)) for seed in range(150)) <= 16


def test_p_values_are_uniform_where_there_is_nothing() -> None:
    found = [tag_p_value(*trial(seed, normal), GLYPHS, seed=seed) for seed in range(150)]
    for level in (0.1, 0.5, 0.9):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.11)


def test_a_planted_regression_is_found_and_only_there() -> None:
    """1.5 standard deviations on 8 prompts against 24: Welch's t is 3.7 on average."""
    found = [regressions(seed, normal, loss=1.5) for seed in range(40)]
    assert np.mean(["glyph" in tags for tags in found]) > 0.75
    others = [tag in tags for tags in found for tag in TAGS if tag != "glyph"]
    assert np.mean(others) < 0.03


def test_a_gain_is_no_regression() -> None:
    a, b = trial(0, lambda rng: rng.normal(0.0, 0.2, 32), loss=-2.0)
    assert tag_p_value(a, b, GLYPHS) > 0.99


def test_the_p_value_is_the_share_of_all_relabellings() -> None:
    """Three prompts of seven: 35 ways to choose them, Welch's t of each by its definition."""
    values = np.array([0.9, 1.4, 2.0, 0.1, 0.8, 0.3, 1.0])

    def t(chosen: tuple[int, ...]) -> float:
        x, y = values[list(chosen)], np.delete(values, chosen)
        error = math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
        return float((x.mean() - y.mean()) / error)

    ways = [t(chosen) for chosen in itertools.combinations(range(7), 3)]
    share = np.mean([way >= t((0, 1, 2)) - 1e-9 for way in ways])
    found = tag_p_value(values, np.zeros(7), (True,) * 3 + (False,) * 4)
    assert found == pytest.approx(share, abs=0.01)


def test_holm_multiplies_the_smallest_by_the_number_of_tags() -> None:
    a, b = trial(3, normal, loss=1.5)
    found = regressions(3, normal, loss=1.5)
    plain = {tag: tag_p_value(a - b, np.zeros(32), (tag == LABELS).tolist()) for tag in TAGS}
    smallest = min(plain, key=lambda tag: plain[tag])
    assert found[smallest] == pytest.approx(4 * plain[smallest])
    assert all(plain[tag] <= p < LEVEL for tag, p in found.items())


def test_samples_of_one_prompt_are_one_prompt() -> None:
    values = np.random.default_rng(0).normal(size=32)
    alone = tag_p_value(values, np.zeros(32), GLYPHS)
    prompts = np.repeat(np.arange(32), 2).tolist()
    twice = tag_p_value(np.repeat(values, 2), np.zeros(64), np.repeat(GLYPHS, 2), prompts)
    assert twice == alone


def test_higher_is_better_turns_it_round() -> None:
    a, b = np.random.default_rng(0).random((2, 32))
    assert tag_p_value(a, b, GLYPHS) == tag_p_value(b, a, GLYPHS, higher_is_better=True)


def test_values_that_are_all_alike_are_no_regression() -> None:
    assert tag_p_value(np.full(32, 0.3), np.full(32, 0.1), GLYPHS) == 1.0


def test_identical_images_differ_by_nothing_and_half_identical_ones_are_omitted() -> None:
    a = [math.inf, math.inf, 3.0, 2.0, 5.0]
    b = [math.inf, 20.0, 1.0, 1.0, 1.0]
    inside = (True, True, True, False, False)
    finite = tag_p_value([0.0, 2.0, 1.0, 4.0], np.zeros(4), (True, True, False, False))
    assert tag_p_value(a, b, inside) == finite


def test_one_prompt_or_no_other_says_nothing() -> None:
    assert tag_p_value([9.0, 1.0, 2.0], [0.0] * 3, (True, False, False)) == 1.0
    assert tag_p_value([1.0, 2.0], [0.0, 0.0], (True, True)) == 1.0


def test_bad_input_is_refused() -> None:
    with pytest.raises(OtcacheError, match="1 and 2"):
        tag_p_value([1.0, 2.0], [0.0, 0.0], (True,))
    with pytest.raises(OtcacheError, match="samples of prompt 0 must all have the tag, or none"):
        tag_p_value([1.0, 2.0], [0.0, 0.0], (True, False), [0, 0])
    with pytest.raises(OtcacheError, match="a must be numbers"):
        tag_p_value([math.nan], [0.0], (True,))
