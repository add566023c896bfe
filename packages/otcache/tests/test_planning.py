"""Which rungs of a calibration become a policy's, and which are worth nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import otcache
from otcache.calibration.recipe import BASELINES
from otcache.open_loop import open_loop_error
from otcache_core import OtcacheError, Schedule
from otcache_core.calibration import Calibration, Candidate, Rung
from otcache_core.errors import OtcacheNotice
from otcache_core.forecasters import Fitted, Linear, Reuse, VariableOrder
from otcache_core.playback import Arithmetic
from otcache_core.storage.recordings import inner_products
from otcache_core.testing import ToySampler
from otcache_core.transport import uniform_steps


def _rung(num_steps: int, budget: int, error: float, **candidates: float) -> Rung:
    """Return a fitted rung that was compared with uniform reuse, or with the candidates given."""
    schedule = Schedule(num_steps, tuple(range(budget))).with_weights([(0.1,)] * budget)
    table = {n.replace("_", ", "): Candidate(e, 1) for n, e in candidates.items()}
    table |= {"quantile": Candidate(error, 2)}
    return Rung(schedule, error, "quantile", table)


def _calibration(num_steps: int, errors: Mapping[int, float]) -> Calibration:
    """Return a calibration that measured these errors of fitted schedules by budget."""
    rungs = [_rung(num_steps, b, e, uniform_reuse=3 * e) for b, e in sorted(errors.items())]
    return _of(num_steps, rungs)


def _of(num_steps: int, rungs: Sequence[Rung], samples: int = 2) -> Calibration:
    return Calibration(
        provenance={"num_steps": num_steps},
        num_steps=num_steps,
        grid=np.linspace(1, 0, num_steps + 1),
        samples=tuple(map(str, range(samples))),
        gram=np.eye(num_steps),
        span_costs=np.zeros((num_steps, num_steps + 1)),
        anchor=Schedule(num_steps, (0, 1)),
        reference=Schedule(num_steps, (0, 1, 2)),
        ladder=tuple(rungs),
        nfe={},
    )


def _budgets(policy: otcache.Policy) -> list[int]:
    return [rung.budget for rung in policy.ladder]


def test_a_rung_worse_than_a_cheaper_one_is_kept_since_it_was_measured() -> None:
    policy = otcache.plan(_calibration(30, {4: 0.3, 8: 0.1, 10: 0.2, 15: 0.05}))
    assert _budgets(policy) == [4, 8, 10, 15]


def test_a_rung_that_a_baseline_won_is_kept_whatever_was_measured() -> None:
    below = _rung(30, 5, 0.1, uniform_reuse=0.3)
    won = Rung(Schedule(30, (0, 9)), 0.4, "planned, reuse", {"planned, reuse": Candidate(0.4, 1)})
    assert _budgets(otcache.plan(_of(30, [won, below], samples=2))) == [2, 5]


def test_anchor_and_reference_outside_of_the_rungs_are_no_nodes() -> None:
    """They were never compared with a baseline."""
    policy = otcache.plan(_of(30, [_rung(30, b, 1 / b, uniform_reuse=1.0) for b in (4, 8)]))
    assert policy.anchor == policy.reference == policy.ladder[0]


@pytest.mark.parametrize(
    ("error", "samples", "kept"),
    [(0.08, 2, True), (0.09, 2, False), (0.04, 1, True), (0.045, 1, False)],
)
def test_a_rung_without_baselines_needs_the_bound_of_a_smaller_one(
    error: float, samples: int, kept: bool
) -> None:
    """At B = 10 the best baseline had .25; at 12 it would have .174, and half of that is .087."""
    every = dict.fromkeys(n.replace(", ", "_") for n in BASELINES)
    below = _rung(50, 10, 0.2, **dict.fromkeys(every, 0.25))
    calibration = _of(50, [below, _rung(50, 12, error)], samples)
    assert _budgets(otcache.plan(calibration)) == ([10, 12] if kept else [10])


@pytest.mark.remedy("give what otcache.calibrate(...) returned, or Calibration.load(path)")
def test_a_calibration_is_planned_from(tmp_path: Path) -> None:
    calibration = _calibration(9, {2: 0.2, 3: 0.1})
    calibration.save(tmp_path)
    with pytest.raises(OtcacheError, match=r"give what otcache\.calibrate"):
        otcache.plan(str(tmp_path))  # type: ignore[arg-type]  # as people do
    assert _budgets(otcache.plan(calibration)) == [2, 3]
    assert _budgets(otcache.plan(Calibration.load(tmp_path))) == [2, 3]


@pytest.mark.remedy("compared with uniform reuse: raise Recipe.candidate_runs")
def test_a_ladder_that_was_never_compared_makes_no_policy() -> None:
    with pytest.raises(OtcacheError, match=r"compared with uniform reuse: raise Recipe\."):
        otcache.plan(_of(30, [_rung(30, 5, 0.1)]))
    compared = _rung(30, 5, 0.1, uniform_reuse=0.3)  # as more runs of candidates make it
    assert _budgets(otcache.plan(_of(30, [compared]))) == [5]


@pytest.mark.remedy("there is no worthwhile budget for {} steps{}: compute them all")
@pytest.mark.parametrize("num_steps", [4, 8])
def test_few_steps_of_equal_error_are_all_computed(num_steps: int) -> None:
    calibration = _calibration(num_steps, {1: 0.4, 2: 0.2, 3: 0.1})
    wanted = (
        f"no worthwhile budget for {num_steps} steps .computing 3 of them leaves 25% of the error "
        "of computing one.* compute them all"
    )
    with pytest.raises(OtcacheError, match=wanted):
        otcache.plan(calibration)
    assert Schedule.full(num_steps).budget == num_steps  # runs without a policy


def test_few_steps_keep_the_rungs_of_small_error_and_a_notice_names_the_others() -> None:
    with pytest.warns(OtcacheNotice, match=r"budgets below 3 are not worthwhile for 8 steps"):
        policy = otcache.plan(_calibration(8, {1: 0.4, 2: 0.2, 3: 0.04, 5: 0.01}))
    assert _budgets(policy) == [3, 5]


def test_few_steps_without_loss_are_planned_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtcacheNotice)
        assert _budgets(otcache.plan(_calibration(8, {1: 0.4, 2: 0.01, 3: 0.001}))) == [2, 3]


def test_few_steps_on_a_straight_path_are_skipped_though_one_leaves_no_error() -> None:
    assert _budgets(otcache.plan(_calibration(8, {1: 1e-12, 2: 1e-12, 3: 2e-9}))) == [2, 3]


def test_without_a_rung_of_one_step_the_worst_one_is_the_measure() -> None:
    with pytest.raises(OtcacheError, match="no worthwhile budget for 6 steps"):
        otcache.plan(_calibration(6, {2: 0.2, 3: 0.1}))


def test_runs_of_more_steps_are_not_concerned() -> None:
    assert _budgets(otcache.plan(_calibration(9, {2: 0.2, 3: 0.1}))) == [2, 3]


def _toy(rungs: Sequence[Rung]) -> tuple[ToySampler, Calibration]:
    """Return a calibration with the outputs of a toy, and these rungs."""
    toy = ToySampler(num_steps=12, num_samples=3)
    gram = np.mean([inner_products(t.outputs) for t in toy.trajectories()], axis=0)
    grams = {"gram": gram, "grid": toy.grid, "output_weights": np.diff(toy.grid)}
    return toy, replace(_of(12, rungs), **grams)


@pytest.mark.parametrize("forecaster", ["reuse", "linear", "fitted", "variable-order"])
def test_the_open_loop_error_is_that_of_forecasts_of_recorded_outputs(forecaster: str) -> None:
    schedule = Schedule(12, (0, 1, 4, 9), forecaster)
    if forecaster == "fitted":
        schedule = schedule.with_weights([(0.1,), (0.0, 0.4), (-0.1, 0.3), (0.2, 0.1, -0.3)])
    toy, calibration = _toy([])
    rules = {"reuse": Reuse(), "linear": Linear(), "fitted": Fitted()}
    rule, runs = rules.get(forecaster, VariableOrder()), list(toy.trajectories())
    squares = []
    for run in runs:
        moved = np.zeros(toy.dim)
        for span in schedule.spans():
            rows = rule.coefficients(span, toy.grid)
            if orders := rule.orders(span, toy.grid):  # of all samples as one
                kept = [span.start, *span.history][:3]
                joint = [np.concatenate([one.outputs[k] for one in runs]) for k in kept]
                weights = Arithmetic().order_weights(joint, orders.ramps)
                numbers = [float(weight.item()) for weight in weights]
                rows = [np.array(orders.coefficients(i, numbers)) for i in range(len(span.skipped))]
            for t, row in zip(span.skipped, rows, strict=True):
                sources = run.outputs[[span.start, *span.history][: len(row)]]
                moved += (toy.grid[t + 1] - toy.grid[t]) * (row @ sources - run.outputs[t])
        squares.append(np.mean(moved**2))
    found = open_loop_error(schedule, calibration)
    assert found == pytest.approx(float(np.sqrt(np.mean(squares))), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=12, max_size=12))
def test_between_rungs_nothing_is_above_uniform_reuse_in_open_loop(numbers: list[float]) -> None:
    """Weights of the rungs may be anything, and what is interpolated from them may be absurd."""
    rungs = []
    for budget, own in ((3, numbers[:3]), (6, numbers[3:9]), (10, numbers[9:])):
        steps = tuple(i * 12 // budget for i in range(budget))
        rows = [(0.0, own[m % len(own)])[: m + 1] for m in range(budget)]
        schedule = Schedule(12, steps).with_weights(rows)
        table = {"quantile": Candidate(0.1, 2), "uniform, reuse": Candidate(0.3, 2)}
        rungs.append(Rung(schedule, 0.1, "quantile", table))
    _, calibration = _toy(rungs)
    policy = otcache.plan(calibration)
    measured = {rung.schedule.budget: rung.schedule for rung in rungs}
    for budget in range(2, 12):
        schedule = policy.schedule(budget)
        uniform = Schedule(12, uniform_steps(12, budget))
        if budget in measured:
            assert schedule == measured[budget]
        else:
            limit = open_loop_error(uniform, calibration) * (1 + 1e-9)
            assert open_loop_error(schedule, calibration) <= limit


def test_between_smooth_rungs_weights_are_interpolated() -> None:
    toy = ToySampler(num_steps=12, num_samples=3)
    rungs = []
    for budget in (4, 8):
        plain = Schedule(12, uniform_steps(12, budget))
        fitted = toy.evaluator().evaluate([plain], fit=True).schedules[0]
        table = {"quantile": Candidate(0.1, 2), "uniform, reuse": Candidate(0.3, 2)}
        rungs.append(Rung(fitted, 0.1, "quantile", table))
    policy = otcache.plan(_toy(rungs)[1])
    assert {policy.schedule(b).forecaster for b in range(4, 9)} == {"fitted"}
    assert not {5, 6, 7} & set(_budgets(policy))
