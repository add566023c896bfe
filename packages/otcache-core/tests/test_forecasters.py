"""Forecasters against the outputs they are exact for."""

from __future__ import annotations

import numpy as np
import pytest

from otcache_core import ScheduleError
from otcache_core.forecasters import Fitted, Linear, Reuse
from otcache_core.schedule import Span
from otcache_core.testing import ForecasterConformance

GRID = np.linspace(1.0, 0.0, 11) ** 1.5
OUTPUTS = np.stack([3.0 - 2.0 * GRID[:-1], 5.0 * GRID[:-1]], axis=1)  # linear in s, shape (10, 2)


class TestReuse(ForecasterConformance):
    def make_forecaster(self) -> Reuse:
        return Reuse()


class TestLinear(ForecasterConformance):
    def make_forecaster(self) -> Linear:
        return Linear()


class TestFitted(ForecasterConformance):
    def make_forecaster(self) -> Fitted:
        return Fitted()

    def weights(self, history: int) -> tuple[float, ...]:
        return (0.01, 0.5, -0.25)[: history + 1]


def forecast(forecaster: object, span: Span) -> np.ndarray:
    table = forecaster.coefficients(span, GRID)
    used = [span.start, *span.history][: table.shape[1]]
    return table @ OUTPUTS[used]


def test_reuse_repeats_the_last_output() -> None:
    got = forecast(Reuse(), Span(3, 6, (1, 0)))
    np.testing.assert_array_equal(got, np.stack([OUTPUTS[3]] * 2))


def test_linear_is_exact_for_outputs_linear_in_the_grid_coordinate() -> None:
    span = Span(3, 9, (1, 0))
    np.testing.assert_allclose(forecast(Linear(), span), OUTPUTS[4:9], rtol=1e-12)


def test_linear_degrades_to_reuse_without_history_or_with_equal_grid_points() -> None:
    np.testing.assert_array_equal(Linear().coefficients(Span(0, 3), GRID), np.ones((2, 1)))
    flat = np.array([1.0, 0.5, 0.5, 0.2, 0.0])
    np.testing.assert_array_equal(Linear().coefficients(Span(2, 4, (1,)), flat), np.ones((1, 1)))


def test_fitted_is_the_formula() -> None:
    c = (0.1, 0.2, 0.3)
    v = OUTPUTS
    wanted = v[5] + c[0] * v[5] + c[1] * (v[5] - v[3]) + c[2] * (v[5] - v[0])
    got = forecast(Fitted(), Span(5, 8, (3, 0), c))
    np.testing.assert_allclose(got, np.stack([wanted, wanted]), rtol=1e-12)


def test_fitted_without_weights_is_reuse() -> None:
    span = Span(5, 8, (3, 0))
    np.testing.assert_array_equal(
        Fitted().coefficients(span, GRID), Reuse().coefficients(span, GRID)
    )


def test_fitted_refuses_weights_for_steps_that_do_not_exist() -> None:
    with pytest.raises(ScheduleError) as caught:
        Fitted().coefficients(Span(2, 5, (0,), (0.1, 0.2, 0.3)), GRID)
    assert str(caught.value) == (
        "number of weights of span (2 -> 5) must be at most 2, got 3: one per computed step."
    )
