"""Open-loop weights against direct least squares, and against the forecaster that runs them."""

from __future__ import annotations

import numpy as np
import pytest

from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.forecasters import Fitted
from otcache_core.schedule import Span
from otcache_core.testing import ToySampler
from otcache_solvers.additive.second_order import OpenLoopFit, SecondOrder
from otcache_solvers.costs.gram import Gram, GramCosts

TOY = ToySampler(num_steps=14, num_samples=5, power=1.4)
RUNS = TOY.trajectories()
GRID = TOY.grid
OUTPUTS = np.concatenate([run.outputs for run in RUNS], axis=1)  # (N, samples * d)
GRAM = Gram.of(RUNS)
SCHEDULE = Schedule(14, (0, 1, 4, 5, 9))


def landed(span, weights):
    """Where the forecast steps of a span lead, minus where the recorded ones do."""
    stored = Span(span.start, span.stop, span.history, weights)
    table = Fitted().coefficients(stored, GRID)
    known = OUTPUTS[[span.start, *span.history][: table.shape[1]]]
    steps = np.diff(GRID)[list(span.skipped)]
    return steps @ (table @ known - OUTPUTS[list(span.skipped)])


@pytest.mark.parametrize("memory", [1, 2, 3])
@pytest.mark.parametrize("ridge", [1e-10, 1e-4, 1e-1])
def test_the_weights_solve_the_least_squares_problem(memory, ridge):
    fit = OpenLoopFit(GRAM.matrix, GRID, memory, ridge)
    for span in SCHEDULE.spans():
        known = [span.start, *span.history][:memory]
        c = fit.weights(span)
        assert len(c) == len(known)
        if not span.skipped:
            assert not any(c)
            continue
        V = OUTPUTS[known].T
        z = OUTPUTS[list(span.skipped)].T @ np.diff(GRID)[list(span.skipped)]
        size = ridge * np.square(V).sum() / len(known)
        rows = np.vstack([V, np.sqrt(size) * np.eye(len(known))])
        alpha = np.linalg.lstsq(rows, np.append(z, np.zeros(len(known))), rcond=None)[0]
        found = landed(span, c)
        np.testing.assert_allclose(found, V @ alpha - z, atol=1e-8 * np.abs(z).max())


def test_no_other_weights_land_nearer_without_a_ridge():
    fit, rng = OpenLoopFit(GRAM.matrix, GRID, ridge=1e-12), np.random.default_rng(0)
    for span in SCHEDULE.spans():
        c = np.array(fit.weights(span))
        best = np.square(landed(span, tuple(c))).sum()
        for _ in range(5):
            moved = tuple(c + 0.01 * rng.standard_normal(len(c)))
            assert np.square(landed(span, moved)).sum() >= best * (1 - 1e-9)


@pytest.mark.parametrize("budget", [1, 3, 5, 8])
def test_second_order_stores_the_forecast_it_planned_with(budget):
    growth = np.linspace(2.0, 1.0, 15)
    problem = ScheduleProblem(14, budget, gram=GRAM.matrix, grid=GRID, gains=growth)
    solution = SecondOrder(fitted=True).solve(problem)
    schedule = solution.schedule
    assert schedule.forecaster == "fitted"
    assert schedule.memory <= 2
    total = sum(
        growth[span.stop] ** 2 * np.square(landed(span, span.weights)).mean()
        for span in schedule.spans()
    )
    assert total == pytest.approx(solution.objective, rel=1e-7, abs=1e-12)
    plain = SecondOrder().solve(problem)
    assert plain.schedule == schedule.without_weights()


def test_run_for_real_the_weights_beat_reuse():
    evaluator = TOY.evaluator()
    fitted = OpenLoopFit(GRAM.matrix, GRID).fitted(SCHEDULE)
    errors = evaluator.evaluate([SCHEDULE, fitted]).errors.mean(1)
    assert errors[1] < 0.3 * errors[0]


def test_silent_outputs_and_a_still_grid_mean_reuse():
    silent = OpenLoopFit(np.zeros((4, 4)), np.linspace(1, 0, 5)).fitted(Schedule(4, (0, 1)))
    assert not np.any(np.concatenate(silent.weights))
    still = OpenLoopFit(np.eye(4), np.array([1.0, 0.5, 0.5, 0.5, 0.0]))
    assert still.weights(Span(0, 3)) == (0.0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": 4}, "OpenLoopFit.memory must be 1, 2 or 3, got 4"),
        ({"ridge": 0.0}, "ridge must be above 0"),
        ({"grid": np.ones(4)}, "grid must be of shape"),
        ({"gram": np.full((4, 4), np.nan)}, "gram holds NaN"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"gram": np.eye(4), "grid": np.linspace(1.0, 0.0, 5)}
    with pytest.raises(OtcacheError, match=message):
        OpenLoopFit(**good | change)


def test_a_schedule_of_another_run_is_refused():
    with pytest.raises(OtcacheError, match="must be 14, as the Gram, got 5"):
        OpenLoopFit(GRAM.matrix, GRID).fitted(Schedule.full(5))


def test_gram_costs_are_what_the_best_multiple_leaves():
    measured = GramCosts().measure(RUNS)
    for i in range(14):
        for j in range(i + 2, 15):
            z = OUTPUTS[i + 1 : j].T @ np.diff(GRID)[i + 1 : j]
            a = np.linalg.lstsq(OUTPUTS[i][:, None], z, rcond=None)[0]
            left = np.sqrt(np.square(z - a[0] * OUTPUTS[i]).mean())
            assert measured.costs[i, j] == pytest.approx(left, rel=1e-6, abs=1e-9)
    assert (measured.nfe, measured.samples) == (0, 5)


def test_gram_costs_of_shards_are_those_of_the_whole():
    merged = Gram.of(RUNS[3:]).merge(Gram.of(RUNS[:3]))
    np.testing.assert_array_equal(
        GramCosts().of(merged, GRID).costs, GramCosts().measure(RUNS).costs
    )
    with pytest.raises(OtcacheError, match=r"grid must be of shape \(15,\)"):
        GramCosts().of(merged, GRID[:-1])
    other = ToySampler(num_steps=14, power=1.0).trajectories()
    with pytest.raises(OtcacheError, match="share one grid"):
        GramCosts().measure([*RUNS, *other])
