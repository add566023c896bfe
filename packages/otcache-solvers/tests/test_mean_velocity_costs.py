"""Mean-velocity costs against plain loops, and against the forecaster that they are costs of."""

from __future__ import annotations

import numpy as np
import pytest

from otcache_core import OtcacheError, Schedule, ScheduleProblem, Trajectory
from otcache_core.plugins import Registry
from otcache_core.schedule import Span
from otcache_core.testing import ToySampler
from otcache_solvers.additive.shortest_path import PeakSuppressed
from otcache_solvers.costs import mean_velocity
from otcache_solvers.costs.displacement import Local
from otcache_solvers.costs.mean_velocity import LookbackCosts, MeanVelocity

TOY = ToySampler(num_steps=9, num_samples=4, power=1.5)
RUNS = TOY.trajectories()
N = TOY.num_steps


def naive(runs, i, j, h):
    """E_h(i -> j), letter by letter."""
    total = []
    for run in runs:
        s, x, v = run.grid, run.states, run.outputs
        u = (x[j] - x[i]) / (s[j] - s[i])
        r = i - h if i > h else 0
        J = 0.0
        if h > 1 and i > 1:
            J = (x[i] - x[r] - (s[i] - s[r]) * v[r]) / (s[i] - s[r]) ** 2
        total.append(np.mean(np.abs(u - v[i] - (s[j] - s[i]) * J)))
    return np.mean(total)


def spans():
    return [(i, j) for i in range(N) for j in range(i + 2, N + 1)]


def test_the_table_is_the_formula():
    found = MeanVelocity().lookback_costs(RUNS)
    assert found.candidates == (1, 2, 3, 4, 5, 6)
    assert found.table.shape == (6, N, N + 1)
    for row, h in zip(found.table, found.candidates, strict=True):
        for i, j in spans():
            assert row[i, j] == pytest.approx(naive(RUNS, i, j, h), rel=1e-9, abs=1e-12)


def test_the_cost_is_the_least_over_lookbacks_and_the_lookback_attains_it():
    found = MeanVelocity(lookbacks=(1, 3, 4)).lookback_costs(RUNS)
    for i, j in spans():
        each = {h: naive(RUNS, i, j, h) for h in (1, 3, 4)}
        assert found.costs[i, j] == pytest.approx(min(each.values()), rel=1e-9)
        assert each[found.lookbacks[i, j]] == pytest.approx(min(each.values()), rel=1e-9)
    assert len({int(found.lookbacks[i, j]) for i, j in spans()}) > 1


def test_ties_go_to_the_smallest_lookback():
    found = MeanVelocity().lookback_costs(RUNS)
    assert (found.lookbacks[:2] == 1).all()  # no history: every lookback is reuse
    assert (found.lookbacks[2, 4:] <= 2).all()  # there r = 0 for all but h = 1


def test_with_reuse_alone_it_is_the_local_cost_over_the_length():
    found = MeanVelocity(lookbacks=(1,)).measure(RUNS)
    s = TOY.grid
    length = np.abs(s[None, :] - s[:-1, None])
    np.testing.assert_allclose(found.costs * length, Local().measure(RUNS).costs, atol=1e-13)
    assert (found.nfe, found.samples) == (0, 4)


@pytest.mark.parametrize("h", [1, 2, 3, 5])
def test_times_the_length_it_is_the_error_of_the_forecaster(h):
    """One span skipped on the recorded run, filled by mean-velocity-paper."""
    rule = Registry().create("forecasters", "mean-velocity-paper")
    found, s = MeanVelocity(lookbacks=(h,)).lookback_costs(RUNS), TOY.grid
    for i, j in spans():
        history = tuple(reversed(range(i)))
        table = rule.coefficients(Span(i, j, history, (float(h),)), s)
        for n, run in enumerate(RUNS):
            sources = run.outputs[[i, *history]][: table.shape[1]]
            landed = run.states[i + 1] + np.diff(s)[i + 1 : j] @ (table @ sources)
            error = np.abs(landed - run.states[j]).mean()
            step_error = abs(s[j] - s[i]) * found.per_sample[n, 0, i, j]
            assert step_error == pytest.approx(error, rel=1e-8, abs=1e-12)


def test_shards_merge_to_the_same_bits():
    whole = MeanVelocity().lookback_costs(RUNS)
    a, b, c = (MeanVelocity().lookback_costs(runs) for runs in (RUNS[:1], RUNS[1:2], RUNS[2:]))
    for merged in (a.merge(b).merge(c), c.merge(a).merge(b)):
        np.testing.assert_array_equal(merged.table, whole.table)
        np.testing.assert_array_equal(merged.costs, whole.costs)
        np.testing.assert_array_equal(merged.lookbacks, whole.lookbacks)
    assert a.merge(c).samples == 3


def test_slabs_of_elements_add_up(monkeypatch):
    whole = MeanVelocity().lookback_costs(RUNS).table
    monkeypatch.setattr(mean_velocity, "SLAB", 4)
    np.testing.assert_allclose(MeanVelocity().lookback_costs(RUNS).table, whole, rtol=1e-12)


def test_coinciding_grid_points_give_finite_costs():
    grid = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.0])
    rng = np.random.default_rng(0)
    v = rng.standard_normal((5, 3))
    x = np.concatenate([np.zeros((1, 3)), np.cumsum(np.diff(grid)[:, None] * v, axis=0)])
    found = MeanVelocity().measure([Trajectory(grid, x, v)])
    assert np.isfinite(found.costs).all()
    assert found.costs[0, 2] == 0.0


def test_a_planned_schedule_carries_its_lookbacks():
    found = MeanVelocity().lookback_costs(RUNS)
    plan = PeakSuppressed().solve(ScheduleProblem(N, 4, costs=found.costs)).schedule
    carried = found.applied(plan)
    assert MeanVelocity().measure(RUNS).applied(plan) == carried
    assert carried.computed == plan.computed
    assert carried.forecaster == "mean-velocity"
    h = [float(found.lookbacks[span.start, span.stop]) for span in plan.spans()]
    assert carried.weights == ((h[0],), (h[1], h[0]), (h[2], h[1], h[0]), tuple(h[::-1]))
    paper = found.applied(plan, "mean-velocity-paper")
    for schedule in (carried, paper):
        rule = Registry().create("forecasters", schedule.forecaster)
        for span in schedule.spans():
            assert np.isfinite(rule.coefficients(span, TOY.grid)).all()


def test_fitted_weights_are_replaced():
    found = MeanVelocity().lookback_costs(RUNS)
    rows = ((0.1,), (0.1, 0.2))
    fitted = Schedule(N, (0, 4)).with_weights(rows, {"cond": rows})
    carried = found.applied(fitted)
    assert carried.branch_weights == ()
    assert all(c == int(c) for row in carried.weights for c in row)


def test_what_does_not_fit_is_refused():
    found = MeanVelocity().lookback_costs(RUNS)
    with pytest.raises(OtcacheError, match=r"schedule.num_steps must be 9 as the costs'"):
        found.applied(Schedule.full(5))
    with pytest.raises(OtcacheError, match=r"LookbackCosts.candidates must be"):
        found.merge(MeanVelocity(lookbacks=(1, 2)).lookback_costs(RUNS))
    other = ToySampler(num_steps=5).trajectories()
    with pytest.raises(OtcacheError, match=r"LookbackCosts.num_steps must be 9"):
        found.merge(MeanVelocity().lookback_costs(other))
    with pytest.raises(OtcacheError, match=r"num_steps must be one and the same.*\[5, 9\]"):
        MeanVelocity().measure([*RUNS, *other])
    with pytest.raises(OtcacheError, match="need a recorded full run, got none"):
        MeanVelocity().measure([])


@pytest.mark.parametrize("bad", [(), (0, 1), (2, 1), (1, 1), (1.5,), (True,)])
def test_lookbacks_are_increasing_whole_numbers(bad):
    with pytest.raises(OtcacheError, match="lookbacks must be increasing whole numbers, 1 or more"):
        MeanVelocity(lookbacks=bad)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 3, 4), (0, 2, 3, 4), (1, 2, 3, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(OtcacheError, match=r"of shape \(samples, 2, N, N \+ 1\)"):
        LookbackCosts((1, 2), np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_costs_that_are_no_costs_are_refused(value):
    with pytest.raises(OtcacheError, match="must be finite and >= 0"):
        LookbackCosts((1,), np.full((1, 1, 3, 4), value))
