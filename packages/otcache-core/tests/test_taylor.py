"""Taylor series in the step index, against finite differences of the outputs themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import Schedule, ScheduleError
from otcache_core.forecasters import Reuse, Taylor
from otcache_core.plugins import Registry
from otcache_core.schedule import Span
from otcache_core.testing import ForecasterConformance

CORE = Registry(entry_points=False)

N = 12
GRID = np.linspace(1.0, 0.0, N + 1) ** 1.5


class TestTaylor(ForecasterConformance):
    def make_forecaster(self) -> Taylor:
        return CORE.create("forecasters", "taylor")


class TestTaylor1(TestTaylor):
    def make_forecaster(self) -> Taylor:
        return CORE.create("forecasters", "taylor-1")


class TestTaylor3(TestTaylor):
    def make_forecaster(self) -> Taylor:
        return CORE.create("forecasters", "taylor-3")


def schedules() -> st.SearchStrategy[Schedule]:
    later = st.sets(st.integers(1, N - 1), max_size=6)
    return later.map(lambda steps: Schedule(N, (0, *sorted(steps))))


def forecast(order: int, span: Span, outputs: np.ndarray) -> np.ndarray:
    table = Taylor(order).coefficients(span, GRID)
    return table @ outputs[[span.start, *span.history][: table.shape[1]]]


def simulated(order: int, schedule: Schedule, outputs: np.ndarray) -> dict[int, np.ndarray]:
    """Return the rule as a sampler would run it: derivatives are kept and updated at computed steps."""
    filled, kept, last = {}, [], 0
    for t in range(N):
        if t in schedule.computed:
            new = [outputs[t]]
            for older in kept[:order]:
                new.append((new[-1] - older) / (t - last))
            kept, last = new, t
        else:
            filled[t] = sum(d * (t - last) ** q / math.factorial(q) for q, d in enumerate(kept))
    return filled


@given(schedules(), st.integers(0, 4), st.integers(0, 9))
def test_it_is_the_rule_run_step_by_step(schedule: Schedule, order: int, seed: int) -> None:
    outputs = np.random.default_rng(seed).standard_normal((N, 3))
    wanted = simulated(order, schedule, outputs)
    for span in schedule.spans():
        for t, got in zip(span.skipped, forecast(order, span, outputs), strict=True):
            np.testing.assert_allclose(got, wanted[t], rtol=1e-9, atol=1e-9)


@given(schedules(), st.integers(0, 3))
def test_constant_outputs_are_repeated(schedule: Schedule, order: int) -> None:
    for span in schedule.spans():
        np.testing.assert_allclose(forecast(order, span, np.full((N, 2), 3.5)), 3.5)


@given(schedules(), st.integers(1, 3))
def test_outputs_linear_in_the_index_are_met(schedule: Schedule, order: int) -> None:
    v = 2.0 - 0.5 * np.arange(N)[:, None]
    for span in schedule.spans():
        if span.history:
            np.testing.assert_allclose(forecast(order, span, v), v[list(span.skipped)], atol=1e-9)


def test_order_two_takes_one_sided_differences_as_derivatives() -> None:
    """By hand for t^2 at steps 0, 1, 2: differences 3 and 1, then 2, so 4 + 3h + 2 h^2 / 2."""
    v = np.arange(N)[:, None] ** 2.0
    got = forecast(2, Span(2, 5, (1, 0)), v)
    np.testing.assert_allclose(got.ravel(), [4 + 3 + 1, 4 + 6 + 4])


def test_without_history_and_at_order_zero_it_is_reuse() -> None:
    for taylor, span in ((Taylor(3), Span(0, 4)), (Taylor(0), Span(5, 8, (3, 0)))):
        table = taylor.coefficients(span, GRID)
        np.testing.assert_array_equal(table, Reuse().coefficients(span, GRID))


@pytest.mark.parametrize("order", [-1, 1.5, True])
def test_other_orders_are_refused(order: object) -> None:
    with pytest.raises(ScheduleError, match=r"Taylor.order must be an integer, 0 or more, got"):
        Taylor(order)  # type: ignore[arg-type]
