"""Bootstrap intervals against known limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from otcache.report.statistics import mean_interval, paired_difference, paired_ratio, win_rate
from otcache_core import OtcacheError


def test_a_constant_has_no_doubt() -> None:
    found = mean_interval([0.25] * 9)
    assert (found.mean, found.low, found.high, found.count) == (0.25, 0.25, 0.25, 9)


def test_the_interval_of_normal_samples_is_about_1_96_standard_errors() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    found = mean_interval(values)
    assert found.half == pytest.approx(1.96 * values.std() / math.sqrt(2000), rel=0.05)
    assert found.low < found.mean < found.high


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(0).random(20)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_repeated_samples_of_a_prompt_are_no_new_evidence() -> None:
    values = np.random.default_rng(0).random(12)
    twice, groups = np.repeat(values, 2), np.repeat(np.arange(12), 2).tolist()
    alone = mean_interval(values).half
    assert mean_interval(twice, groups).half == pytest.approx(alone, rel=1e-9)
    assert mean_interval(twice).half < 0.85 * alone


def test_one_prompt_draws_its_samples() -> None:
    assert mean_interval([1.0, 2.0, 3.0], [0, 0, 0]) == mean_interval([1.0, 2.0, 3.0])


def test_infinite_values_are_counted_not_hidden() -> None:
    found = mean_interval([30.0, math.inf, 40.0])
    assert (found.mean, found.count, found.infinite) == (35.0, 2, 1)
    assert mean_interval([math.inf] * 2).mean == math.inf
    assert mean_interval([math.inf] * 2).half == 0


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(0)
    hard = rng.exponential(1.0, 40)
    a, b = 0.5 * hard, hard
    ratio = paired_ratio(a, b)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    shifted = paired_difference(hard + 0.1, hard)
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1))


def test_pairs_of_identical_images() -> None:
    found = paired_difference([math.inf, math.inf, 3.0], [math.inf, 20.0, 1.0])
    assert (found.mean, found.count, found.infinite) == (1.0, 2, 1)


def test_coverage_is_about_95_percent() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        found = mean_interval(rng.exponential(1.0, 60), seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("values", [[], [math.nan], [-math.inf], [[1.0]]])
def test_bad_values_are_refused(values: list[float]) -> None:
    with pytest.raises(OtcacheError, match="values must be"):
        mean_interval(values)


def test_bad_pairs_are_refused() -> None:
    with pytest.raises(OtcacheError, match="b must be 2"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(OtcacheError, match="groups must be 2 numbers"):
        mean_interval([1.0, 2.0], [0])
    with pytest.raises(OtcacheError, match="compare RMSE"):
        paired_ratio([1.0, math.inf], [1.0, 1.0])
    with pytest.raises(OtcacheError, match="zeros"):
        paired_ratio([1.0], [0.0])


def test_win_rate_counts_ties_as_halves() -> None:
    ours, theirs = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 5.0]
    assert win_rate(ours, theirs).mean == 0.625
    assert win_rate(ours, theirs, higher_is_better=True).mean == 0.375


def test_win_rate_of_identical_images() -> None:
    found = win_rate([math.inf, math.inf, 20.0], [math.inf, 30.0, 30.0], higher_is_better=True)
    assert found.mean == 0.5


def test_win_rate_s_interval_is_that_of_a_share() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(-0.3, 1.0, 800), rng.normal(0.0, 1.0, 800)
    found, share = win_rate(a, b), np.mean(a < b)
    assert found.mean == share
    assert found.half == pytest.approx(1.96 * math.sqrt(share * (1 - share) / 800), rel=0.05)
    doubled = win_rate(np.repeat(a, 2), np.repeat(b, 2), np.repeat(np.arange(800), 2).tolist())
    assert doubled.half == pytest.approx(found.half, rel=1e-9)


def test_win_rate_is_antisymmetric() -> None:
    a, b = np.random.default_rng(0).random((2, 25))
    assert win_rate(a, b).mean == pytest.approx(1 - win_rate(b, a).mean)
    with pytest.raises(OtcacheError, match="b must be 2"):
        win_rate([1.0, 2.0], [1.0])
