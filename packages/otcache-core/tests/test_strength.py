"""Strengths: what of a fitted weight carries over to other budgets and grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strength_by_span import StrengthCurve, blend, strengths, weights_from_strengths

from otcache_core import Schedule
from otcache_core.forecasters import Fitted, Linear
from otcache_core.forecasters.strength import linear_weights
from otcache_core.schedule import Span

GRID = np.linspace(1.0, 0.0, 13) ** 1.4


@pytest.mark.parametrize("r", [1, 2])
def test_linear_weights_move_the_state_as_linear_extrapolation_does(r: int) -> None:
    """Summed over the skipped steps, the constant combination and the extrapolation agree."""
    v = np.random.default_rng(0).standard_normal(12)
    k, stop, history = 5, 9, (3, 1)
    past = history[r - 1]
    c = linear_weights(Span(k, stop, history), GRID, memory=3)[r]
    slope = (v[k] - v[past]) / (GRID[k] - GRID[past])
    moved = sum(
        (GRID[t + 1] - GRID[t]) * (v[k] + slope * (GRID[t] - GRID[k])) for t in range(k + 1, stop)
    )
    assert (GRID[stop] - GRID[k + 1]) * (v[k] + c * (v[k] - v[past])) == pytest.approx(moved)


def test_the_first_linear_weight_is_what_the_linear_forecaster_does_on_average() -> None:
    span = Span(5, 9, (3, 1))
    gaps = np.diff(GRID)[6:9]
    average = gaps @ Linear().coefficients(span, GRID) / gaps.sum()
    c = linear_weights(span, GRID, memory=2)
    stored = Span(5, 9, (3, 1), c)
    np.testing.assert_allclose(Fitted().coefficients(stored, GRID)[0], average, rtol=1e-12)


def test_linear_weights_are_zero_where_there_is_nothing_to_do() -> None:
    assert linear_weights(Span(4, 5, (2,)), GRID, 3) == (0.0, 0.0)
    assert linear_weights(Span(12 - 1, 12, (2, 0)), GRID, 3) == (0.0, 0.0, 0.0)
    assert linear_weights(Span(0, 5), GRID, 3) == (0.0,)
    flat = np.array([1.0, 0.5, 0.5, 0.2, 0.0])
    assert linear_weights(Span(2, 4, (1, 0)), flat, 3)[1] == 0.0


def test_strengths_divide_by_the_linear_weight_and_know_where_they_are_unknown() -> None:
    schedule = Schedule(12, (0, 1, 4, 11)).with_weights(
        [(0.1,), (0.2, 0.3), (0.1, 0.2, 0.3), (0.5, 0.5, 0.5)]
    )
    table = strengths(schedule, GRID)
    lin = linear_weights(list(schedule.spans())[2], GRID, 3)
    assert table[0] == (None,)
    assert table[2] == (0.1, pytest.approx(0.2 / lin[1]), pytest.approx(0.3 / lin[2]))
    assert table[3] == (None, None, None)


def test_forecasters_without_weights_have_strengths_too() -> None:
    assert strengths(Schedule(12, (0, 3)), GRID) == ((0.0,), (0.0,))
    linear = Schedule(12, (0, 3, 7), forecaster="linear")
    assert strengths(linear, GRID) == ((0.0,), (0.0, 1.0), (0.0, 1.0))


steps = st.sets(st.integers(1, 11), max_size=8).map(lambda s: (0, *sorted(s)))
weight = st.floats(-3.0, 3.0)


@given(steps, st.lists(st.tuples(weight, weight, weight), min_size=9, max_size=9))
def test_strengths_give_the_weights_back(computed: tuple[int, ...], rows: list) -> None:
    plain = Schedule(12, computed)
    spans = list(plain.spans())
    given_rows = [
        rows[m][: min(3, m + 1)] if span.skipped else (0.0,) * min(3, m + 1)
        for m, span in enumerate(spans)
    ]
    schedule = plain.with_weights(given_rows)
    back = weights_from_strengths(plain, StrengthCurve.of(schedule, GRID), GRID, memory=3)
    for got, wanted in zip(back, schedule.weights, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


def test_strengths_carry_over_to_another_budget() -> None:
    """Exact linear extrapolation is theta = 1 whatever the gaps."""
    linear = Schedule(12, (0, 3, 7), forecaster="linear")
    curve = StrengthCurve.of(linear, GRID)
    other = Schedule(12, (0, 2, 4, 6, 9))
    resampled = weights_from_strengths(other, curve, GRID, memory=2)
    for span, weights in list(zip(other.spans(), resampled, strict=True))[1:]:
        np.testing.assert_allclose(weights, linear_weights(span, GRID, 2), rtol=1e-12)


def test_history_that_is_missing_keeps_the_total_slope() -> None:
    curve = StrengthCurve(((None,), (None, None), (0.1, 2.0, -0.5), (0.3, 1.0, 0.5)))
    assert curve(0.0, 2) == (0.1, 1.5)
    assert curve(0.5, 3) == (0.1, 2.0, -0.5)
    assert curve(0.625, 3) == pytest.approx((0.2, 1.5, 0.0))
    assert curve(1.0, 1) == (0.3,)


def test_where_nothing_is_known_the_strength_is_zero() -> None:
    full = StrengthCurve.of(Schedule.full(12), GRID)
    assert full(0.3, 3) == (0.0, 0.0, 0.0)


def test_blending_is_linear_in_lam() -> None:
    low, high = StrengthCurve(((0.0, 1.0),)), StrengthCurve(((1.0, 2.0),))
    assert blend(low, high, 0.0)(0.0, 2) == (0.0, 1.0)
    assert blend(low, high, 0.25)(0.0, 2) == (0.25, 1.25)
    assert blend(low, high, 1.0)(0.0, 2) == (1.0, 2.0)


def test_a_slope_over_pure_noise_is_no_unit_for_other_spans() -> None:
    """Zero terminal signal: s_0 = 4096 makes the slope through step 0 next to nothing."""
    grid = np.array([4096.0, 13.8, 5.4, 2.9, 1.6, 0.9, 0.5, 0.2, 0.0])
    fitted = Schedule(8, (0, 4, 6), "fitted", ((0.0,), (0.0, 0.8), (0.0, 0.1, 0.5)))
    assert strengths(fitted, grid)[1] == (0.0, None)
    other = Schedule(8, (0, 3, 5))
    rows = weights_from_strengths(other, StrengthCurve.of(fitted, grid), grid, 3)
    assert max(abs(c) for row in rows for c in row) < 1
