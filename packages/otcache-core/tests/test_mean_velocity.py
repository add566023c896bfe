"""MeanCache's two rules, against samplers that keep every state and output."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import Schedule, ScheduleError
from otcache_core.contracts import Forecaster
from otcache_core.forecasters import MeanVelocity, MeanVelocityPaper, Reuse
from otcache_core.plugins import Registry
from otcache_core.schedule import Span
from otcache_core.testing import ForecasterConformance

CORE = Registry(entry_points=False)

N = 14
RULES = {"mean-velocity": MeanVelocity(), "mean-velocity-paper": MeanVelocityPaper()}
both = pytest.mark.parametrize("name", list(RULES))


class TestMeanVelocity(ForecasterConformance):
    name = "mean-velocity"

    def make_forecaster(self) -> Forecaster:
        return CORE.create("forecasters", self.name)


class TestMeanVelocityPaper(TestMeanVelocity):
    name = "mean-velocity-paper"


class TestWithLookbacks(TestMeanVelocity):
    def weights(self, history: int) -> tuple[float, ...]:
        return (3.0, 1.0, 5.0)[: history + 1]


class TestPaperWithLookbacks(TestWithLookbacks):
    name = "mean-velocity-paper"


@st.composite
def plans(draw: st.DrawFn) -> tuple[Schedule, tuple[int, ...], np.ndarray]:
    """Return a schedule that carries its lookbacks, the lookback of each span, a grid."""
    computed = (0, *sorted(draw(st.sets(st.integers(1, N - 1), max_size=7))))
    h = tuple(draw(st.lists(st.integers(1, 7), min_size=len(computed), max_size=len(computed))))
    rows = [tuple(reversed(h[: m + 1])) for m in range(len(h))]
    gaps = draw(st.lists(st.floats(0.05, 1.0), min_size=N, max_size=N))
    grid = 1.0 - np.concatenate([[0.0], np.cumsum(gaps)]) / sum(gaps)
    return Schedule(N, computed, "mean-velocity", rows), h, grid


def velocity(x: np.ndarray, s: float) -> np.ndarray:
    return np.tanh(x[::-1] + s) + 0.3 * x * s


def applied(
    rule: Forecaster, schedule: Schedule, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """States and outputs of an Euler run whose skipped steps are filled from the table."""
    x, v, computed = [np.array([0.5, -1.0, 2.0])], [], {}
    for span in schedule.spans():
        computed[span.start] = velocity(x[-1], grid[span.start])
        table = rule.coefficients(span, grid)
        sources = [computed[k] for k in (span.start, *span.history)]
        filled = [sum(a * b for a, b in zip(row, sources, strict=False)) for row in table]
        for t, out in zip(range(span.start, span.stop), [sources[0], *filled], strict=True):
            v.append(out)
            x.append(x[-1] + (grid[t + 1] - grid[t]) * out)
    return np.array(x), np.array(v)


def released(schedule: Schedule, h: tuple[int, ...], s: np.ndarray) -> np.ndarray:
    """States of the released sampler: logs of x and v, a correction from states."""
    x, v = [np.array([0.5, -1.0, 2.0])], []
    for i in range(N):
        if i in schedule.computed:
            out = velocity(x[i], s[i])
        else:
            m = max(m for m, k in enumerate(schedule.computed) if k < i)
            a = max(0, i - h[m])
            average = (x[i] - x[a]) / (s[i] - s[a])
            jvp = (v[a] - average) / (s[i] - s[a])
            out = v[i - 1] - jvp * (s[i + 1] - s[i])
        v.append(out)
        x.append(x[i] + (s[i + 1] - s[i]) * out)
    return np.array(x)


def by_the_paper(schedule: Schedule, h: tuple[int, ...], s: np.ndarray) -> dict[int, np.ndarray]:
    """States at the computed steps and the end: each span is one jump with its mean velocity.

    Between, the state moves on a straight line from x_{k+1}, and its velocity is that line's.
    """
    x, v = {0: np.array([0.5, -1.0, 2.0])}, {}
    for m, (i, j) in enumerate(itertools.pairwise([*schedule.computed, N])):
        v[i] = velocity(x[i], s[i])
        r = max(0, i - h[m])
        jvp = 0.0
        if r < i - 1:
            jvp = (x[i] - x[r] - (s[i] - s[r]) * v[r]) / (s[i] - s[r]) ** 2
        u = v[i] + (s[j] - s[i]) * jvp
        x[i + 1] = x[i] + (s[i + 1] - s[i]) * v[i]
        if j > i + 1:
            x[j] = x[i] + (s[j] - s[i]) * u
            for t in range(i + 1, j):
                v[t] = (x[j] - x[i + 1]) / (s[j] - s[i + 1])
                x[t] = x[i + 1] + (s[t] - s[i + 1]) * v[t]
    return x


@given(plans())
def test_mean_velocity_is_the_released_sampler(
    plan: tuple[Schedule, tuple[int, ...], np.ndarray],
) -> None:
    schedule, h, grid = plan
    x, _ = applied(MeanVelocity(), schedule, grid)
    np.testing.assert_allclose(x, released(schedule, h, grid), rtol=1e-8, atol=1e-8)


@given(plans())
def test_mean_velocity_paper_jumps_over_each_span(
    plan: tuple[Schedule, tuple[int, ...], np.ndarray],
) -> None:
    schedule, h, grid = plan
    x, _ = applied(MeanVelocityPaper(), schedule, grid)
    wanted = by_the_paper(schedule, h, grid)
    for t in (*schedule.computed, N):
        np.testing.assert_allclose(x[t], wanted[t], rtol=1e-8, atol=1e-8)


@both
@given(plan=plans())
def test_constant_outputs_are_repeated(
    name: str, plan: tuple[Schedule, tuple[int, ...], np.ndarray]
) -> None:
    schedule, _, grid = plan
    for span in schedule.spans():
        table = RULES[name].coefficients(span, grid)
        np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-8)


@both
@given(plan=plans())
def test_a_lookback_of_one_is_reuse(
    name: str, plan: tuple[Schedule, tuple[int, ...], np.ndarray]
) -> None:
    schedule, _, grid = plan
    for span in schedule.spans():
        ones = Span(span.start, span.stop, span.history, (1.0,) * (1 + len(span.history)))
        table = RULES[name].coefficients(ones, grid)
        np.testing.assert_array_equal(table, Reuse().coefficients(span, grid))


@both
def test_missing_lookbacks_are_two(name: str) -> None:
    grid = np.linspace(1.0, 0.0, N + 1) ** 1.3
    rule, history = RULES[name], (7, 6, 5, 0)
    plain = rule.coefficients(Span(8, 12, history), grid)
    for weights in [(2.0,), (2.0, 2.0), (2.0,) * 5]:
        np.testing.assert_array_equal(rule.coefficients(Span(8, 12, history, weights), grid), plain)
    other = rule.coefficients(Span(8, 12, history, (4.0,)), grid)
    assert not np.array_equal(other[:, :3], plain[:, :3])


def test_the_paper_s_rule_sees_no_change_within_skipped_steps() -> None:
    """They all return one output, so the mean since any of them is that output: J = 0."""
    grid = np.linspace(1.0, 0.0, N + 1) ** 1.3
    rule, history = MeanVelocityPaper(), (5, 2, 0)
    within, before = (rule.coefficients(Span(8, 12, history, (h, 4.0)), grid)[0] for h in (2, 3))
    np.testing.assert_allclose(within[1:], 0.0, atol=1e-9)
    assert np.abs(before[1:]).sum() > 0.1


def test_half_the_slope_on_an_even_grid() -> None:
    """v_t = t: the mean of the last h outputs lies (h - 1)/2 above v_a, J = (h - 1)/2h steps."""
    grid, computed = np.linspace(1.0, 0.0, N + 1), np.arange(6.0)[::-1]
    history = (4, 3, 2, 1, 0)
    for h in (2, 3, 5):
        row = MeanVelocity().coefficients(Span(5, 7, history, (h,)), grid)[0]
        assert row @ computed[: len(row)] == pytest.approx(5 + (h - 1) / (2 * h))
        table = MeanVelocityPaper().coefficients(Span(5, 8, history, (h,)), grid)
        wanted = 5 + 3**2 / 2 * (h - 1) / (2 * h)
        np.testing.assert_allclose(table @ computed[: table.shape[1]], wanted)


@both
def test_without_history_or_with_equal_grid_points_it_is_reuse(name: str) -> None:
    flat = np.array([1.0, 0.5, 0.5, 0.5, 0.5, 0.5])
    for span in (Span(3, 5, (2, 1)), Span(0, 2)):
        table = RULES[name].coefficients(span, flat)
        np.testing.assert_array_equal(table, Reuse().coefficients(span, flat))


@both
def test_an_unknown_grid_is_not_hidden(name: str) -> None:
    """The executor refuses NaN with advice on the grid; reuse needs no grid and goes on."""
    blank = np.full(N + 1, np.nan)
    assert np.isnan(RULES[name].coefficients(Span(4, 6, (1, 0)), blank)).any()
    ones = Span(4, 6, (1, 0), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(RULES[name].coefficients(ones, blank), np.ones((1, 1)))


@both
@pytest.mark.parametrize("h", [0.0, -1.0, 2.5])
def test_lookbacks_are_whole_numbers(name: str, h: float) -> None:
    with pytest.raises(ScheduleError) as caught:
        RULES[name].coefficients(Span(4, 6, (1, 0), (2.0, h)), np.linspace(1, 0, N + 1))
    assert str(caught.value) == (
        f"lookback of span (4 -> 6) must be a whole number, 1 or more, got {h}: "
        "weights of this forecaster are lookbacks h in steps; 1 is reuse."
    )


@both
def test_there_is_at_most_one_lookback_a_computed_output(name: str) -> None:
    with pytest.raises(ScheduleError, match=r"number of lookbacks .* must be at most 2, got 3"):
        RULES[name].coefficients(Span(4, 6, (0,), (2.0,) * 3), np.linspace(1, 0, N + 1))
