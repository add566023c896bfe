"""Forecasts of an order that each sample chooses, against polynomials and the formula sample by sample."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from otcache_core import Playback, Schedule
from otcache_core.contracts.planning import Forecaster, NamedForecaster, Orders, Ramp
from otcache_core.errors import PluginError, ScheduleError
from otcache_core.forecasters import Linear, VariableOrder
from otcache_core.playback import BranchPlan, OrderChoice, PlaybackTable, playback_table
from otcache_core.schedule import Span
from otcache_core.testing import ForecasterConformance

N = 12
GRID = np.linspace(1.0, 0.0, N + 1) ** 1.5
SCHEDULE = Schedule(N, (0, 3, 5, 9), "variable-order")
TABLE = playback_table(SCHEDULE, VariableOrder(), GRID)
ARRAYS = ["numpy", *(["jax.numpy"] if find_spec("jax") else [])]


class TestVariableOrder(ForecasterConformance):
    def make_forecaster(self) -> VariableOrder:
        return VariableOrder()


class TestVariableOrderOfFlows(ForecasterConformance):
    def make_forecaster(self) -> VariableOrder:
        return VariableOrder(flow=True)


def follow(outputs: list[Any], table: PlaybackTable = TABLE, branch: str = "") -> dict[int, Any]:
    """Play recorded outputs, one a step; return the forecasts."""
    playback, forecasts = Playback(table), {}
    playback.begin()
    for step, output in enumerate(outputs):
        forecast = playback.forecast(branch, step)
        if forecast is None:
            playback.keep(branch, step, output)
        else:
            forecasts[step] = forecast
    return forecasts


def by_formula(
    v: list[NDArray[np.float64]], step: int, flow: bool, branch: str
) -> NDArray[np.float64]:
    """Do as the docstring of VariableOrder says, for one sample."""
    k, *before = [c for c in SCHEDULE.computed if c <= step][::-1]
    moved_by = GRID[k] - GRID[step] if flow and branch == "uncond" else 0.0
    if not before:
        return v[k] * (1 - moved_by)
    s, change = GRID, v[k] - v[before[0]]
    slope = change / (s[k] - s[before[0]])
    moved = np.linalg.norm(change) / np.linalg.norm(v[k])
    if len(before) == 1:
        a, b, bend = 1.4 - 2.8 * moved, 0.0, 0.0
    else:
        earlier = v[before[0]] - v[before[1]]
        cosine = (change @ earlier) / np.linalg.norm(change) / np.linalg.norm(earlier)
        a, b = (0.5 if branch == "uncond" else 0.65) + cosine - 2 * moved, 10 * cosine - 9
        bend = (slope - earlier / (s[before[0]] - s[before[1]])) / (s[k] - s[before[1]])
    a, b = np.clip([a, b], 0.0, 1.0)
    ahead = s[step] - s[k]
    held = v[k] * (1 - (1 - a) * moved_by)
    return held + a * ahead * slope + b * ahead * (s[step] - s[before[0]]) * bend


@pytest.mark.parametrize("arrays", ARRAYS)
@pytest.mark.parametrize("roughness", [0.0, 0.02, 3.0])
@pytest.mark.parametrize(
    ("flow", "branch"), [(False, "uncond"), (True, ""), (True, "cond"), (True, "uncond")]
)
def test_each_sample_is_forecast_by_the_formula(
    arrays: str, roughness: float, flow: bool, branch: str
) -> None:
    rng = np.random.default_rng(0)
    start, slope, bend = rng.standard_normal((3, 4, 2, 3))
    outputs = [start + slope * s + 0.1 * bend * s**2 for s in GRID[:N]]
    outputs = [v + roughness * rng.standard_normal(v.shape) for v in outputs]
    made = import_module(arrays)
    table = playback_table(SCHEDULE, VariableOrder(flow), GRID)
    found = follow([made.asarray(v.astype(np.float32)) for v in outputs], table, branch)
    assert sorted(found) == [1, 2, 4, 6, 7, 8, 10, 11]
    for step, forecast in found.items():
        for sample in range(4):
            wanted = by_formula([v[sample].ravel() for v in outputs], step, flow, branch)
            got = np.asarray(forecast[sample]).ravel()
            np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)


def test_smooth_outputs_are_met_by_a_parabola_and_a_turn_is_not_continued() -> None:
    parabola = [np.array([[3.0 + s + 0.01 * s**2]]) for s in GRID[:N]]
    found = follow(parabola)
    for step in (6, 10):
        np.testing.assert_allclose(found[step], parabola[step], rtol=1e-9)
    turned = [np.array([[1.0, 0.0]]) if t < 3 else np.array([[0.0, 1.0]]) for t in range(N)]
    np.testing.assert_array_equal(follow(turned)[4], turned[3])


def test_still_outputs_stay_as_they_are() -> None:
    for still in (np.zeros((2, 3)), np.full((2, 3), 2.0)):
        for forecast in follow([still] * N).values():
            np.testing.assert_allclose(forecast, still, rtol=1e-14)


def test_without_a_prompt_what_is_reused_of_a_flow_is_the_output_less_the_state() -> None:
    """The state follows Euler's steps, and nothing but v - x is kept: EasyCache's rule."""
    rng = np.random.default_rng(3)
    x, held = rng.standard_normal((2, 1, 5))
    table = playback_table(Schedule(N, (0,), "variable-order-flow"), VariableOrder(flow=True), GRID)
    v, start = x + held, x
    forecasts = follow([v] * N, table, "uncond")
    for step in range(1, 4):  # v - x is held exactly while x has moved by v_k alone
        state = start + (GRID[step] - GRID[0]) * v
        np.testing.assert_allclose(forecasts[step], held + state, rtol=1e-12)


def test_samples_do_not_depend_on_their_batch() -> None:
    rng = np.random.default_rng(1)
    outputs = list(rng.standard_normal((N, 3, 5)))
    alone = follow([v[1:2] for v in outputs])
    for step, forecast in follow(outputs).items():
        np.testing.assert_allclose(forecast[1:2], alone[step], rtol=1e-12)


def test_an_output_that_was_missed_is_computed_until_orders_can_be_chosen() -> None:
    """A branch that appears at step 4 has nothing of step 3."""
    playback = Playback(TABLE)
    playback.begin()
    skipped = []
    for step in range(4, N):
        if playback.forecast("late", step) is None:
            playback.keep("late", step, np.full((1, 2), float(step)))
        else:
            skipped.append(step)
    assert skipped == []  # step 9 chooses by the outputs of 9, 5 and 3
    assert playback.computes("late", N - 1)


def test_outputs_are_released_after_they_were_last_read() -> None:
    plan = TABLE.plan("")
    assert plan.needed_until[0] == 8
    assert plan.needed_until[3] == 11
    playback = Playback(TABLE)
    playback.begin()
    for step in range(N):
        if playback.forecast("", step) is None:
            playback.keep("", step, np.ones((1, 2)) * step)
        assert len(playback.kept("")) <= 3


def test_a_table_reads_back_and_its_fixed_forecasts_are_linear(tmp_path: Any) -> None:
    TABLE.save(tmp_path / "table.json")
    assert PlaybackTable.load(tmp_path / "table.json") == TABLE
    linear = playback_table(Schedule(N, SCHEDULE.computed, "linear"), Linear(), GRID)
    assert TABLE.plan("").forecasts == linear.plan("").forecasts


@given(st.permutations(range(3)))
def test_orders_are_exact_for_polynomials_of_their_degree(order: list[int]) -> None:
    span = Span(5, 9, (3, 0))
    orders = VariableOrder().orders(span, GRID)
    assert orders is not None
    degree = order[0]
    steps = [span.start, *span.history]
    table = orders.tables[degree]
    wanted = GRID[list(span.skipped)] ** degree
    np.testing.assert_allclose(table @ GRID[steps[: table.shape[1]]] ** degree, wanted)


def test_two_steps_of_one_level_are_not_divided_by_their_distance() -> None:
    grid = GRID.copy()
    grid[0] = grid[3]
    orders = VariableOrder().orders(Span(5, 9, (3, 0)), grid)
    assert orders is not None
    np.testing.assert_array_equal(orders.tables[2][:, :2], orders.tables[1])
    assert VariableOrder().orders(Span(3, 5, (0,)), grid) is None


class Wrong(Forecaster):
    """Gives the orders it is made with."""

    def __init__(self, orders: Any) -> None:
        self._orders = orders

    def coefficients(self, span: Span, grid: Any) -> Any:
        return np.ones((len(span.skipped), 1))

    def orders(self, span: Span, grid: Any) -> Any:
        return self._orders(span)


@pytest.mark.parametrize(
    "orders",
    [
        lambda span: Orders((np.ones((9, 1)),) * 2, (Ramp(0, 1, 0),)),
        lambda span: Orders((np.ones((len(span.skipped), 1)),) * 2, ()),
        lambda span: Orders((np.full((len(span.skipped), 1), np.nan),) * 2, (Ramp(0, 1, 0),)),
        lambda span: Orders((np.ones((len(span.skipped), 1)),) * 2, (Ramp(np.inf, 1, 0),)),
        lambda span: 1 / 0,
        lambda span: 7,
    ],
)
def test_orders_that_cannot_be_followed_name_their_forecaster(orders: Any) -> None:
    with pytest.raises(PluginError, match="'wrong'"):
        NamedForecaster(Wrong(orders), "'wrong'").orders(Span(3, 5, (0,)), GRID)


@pytest.mark.parametrize(
    ("steps", "ramps"),
    [
        ((3,), ((0, 1, 0),)),
        ((0, 3), ((0, 1, 0),)),
        ((3, 0), ()),
        ((3, 0), ((0, np.nan, 0),)),
    ],
)
def test_a_choice_needs_steps_and_ramps(steps: Any, ramps: Any) -> None:
    with pytest.raises(ScheduleError, match="order_choice"):
        OrderChoice(steps, tuple(Ramp(*ramp) for ramp in ramps))


@pytest.mark.parametrize("broken", ["short", "no choice", "computed", "not the latest"])
def test_a_plan_whose_choices_do_not_fit_is_refused(broken: str) -> None:
    plan = TABLE.plan("")
    orders, choices = list(plan.orders), list(plan.order_choices)
    if broken == "short":
        orders = orders[:-1]
    elif broken == "no choice":
        choices[5] = None
    elif broken == "computed":
        orders[5] = orders[4]
    else:
        choices[5] = choices[3]
    with pytest.raises(ScheduleError, match="order"):
        BranchPlan.of(plan.forecasts, orders, choices)
