"""A policy gives a schedule for every budget, quickly, and knows its pipeline."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strength_by_span import StrengthCurve

from otcache_core import (
    MismatchError,
    OtcacheError,
    OtcacheNotice,
    Policy,
    Provenance,
    Schedule,
    ScheduleError,
)
from otcache_core.forecasters.strength import linear_weights
from otcache_core.transport import interpolate, uniform_steps
from otcache_core.uncalibrated import default_schedule

N = 50


def grid_of(policy: Policy) -> np.ndarray:
    return np.array(policy.provenance.grid)


def test_rungs_come_back_as_they_are(policy: Policy) -> None:
    assert policy.schedule(4) == policy.ladder[0]
    assert policy.schedule(10) == policy.ladder[1]


def test_a_rung_stands_before_anchor_and_reference(provenance: Provenance) -> None:
    plain = Schedule(N, (0, 25))
    better = plain.with_weights([(0.1,), (0.1, 0.2)])
    assert Policy(plain, plain, provenance, ladder=(better,)).schedule(2) == better


def test_every_budget_has_a_schedule_of_that_many_steps(policy: Policy) -> None:
    for budget in range(1, N + 1):
        schedule = policy.schedule(budget)
        assert (schedule.budget, schedule.num_steps) == (budget, N)
    assert policy.schedule(1) == Schedule(N, (0,))
    assert policy.schedule(N) == Schedule.full(N)


def test_steps_between_rungs_are_displaced_and_strengths_blended(policy: Policy) -> None:
    low, high = policy.ladder
    got = policy.schedule(6)
    assert got.computed == interpolate(low, high, 6).computed
    lam = (1 / 4 - 1 / 6) / (1 / 4 - 1 / 10)
    curves = [StrengthCurve.of(s, grid_of(policy)) for s in (low, high, got)]
    u = 3 / 6
    a, b, c = (curve(u, 3) for curve in curves)
    np.testing.assert_allclose(c, (1 - lam) * np.array(a) + lam * np.array(b), rtol=1e-9)


def test_a_middle_rung_is_the_neighbour(policy: Policy) -> None:
    middle = Schedule(N, (0, 2, 5, 11, 22, 33)).with_weights([(0.0,)] * 6)
    richer = msgspec.structs.replace(policy, ladder=(policy.ladder[0], middle, policy.ladder[1]))
    assert richer.schedule(6) == middle
    assert richer.schedule(5).computed == interpolate(policy.ladder[0], middle, 5).computed
    assert richer.schedule(8).computed == interpolate(middle, policy.ladder[1], 8).computed


def test_beyond_the_ends_the_nearer_schedule_is_read(policy: Policy) -> None:
    low, high = policy.ladder
    assert policy.schedule(3).computed == interpolate(low, low, 3).computed
    assert policy.schedule(20).computed == interpolate(high, high, 20).computed


def test_a_forecaster_without_weights_is_kept(provenance: Provenance) -> None:
    ends = [Schedule(N, steps, forecaster="linear") for steps in ((0, 10), (0, 5, 10, 20, 30))]
    got = Policy(ends[0], ends[1], provenance).schedule(3)
    assert (got.forecaster, got.weights) == ("linear", ())


def _rung(budget: int, kind: str, uniform: bool) -> Schedule:
    steps = uniform_steps(N, budget) if uniform else (*range(budget - 1), N - 2)
    schedule = Schedule(N, steps, "reuse" if kind == "fitted" else kind)
    return schedule.with_weights([(0.1,)] * budget) if kind == "fitted" else schedule


RUNGS = st.tuples(
    st.sampled_from(["fitted", "reuse", "linear", "variable-order", "variable-order-flow"]),
    st.booleans(),
)


@given(st.integers(2, 12), st.integers(2, 30), RUNGS, RUNGS, st.integers(2, N - 2))
def test_beside_a_reusing_rung_there_is_reuse_and_beside_one_of_variable_order_that(
    low: int, gap: int, first: tuple[str, bool], second: tuple[str, bool], budget: int
) -> None:
    """On the policy's own run and on any other; uniformly where a rung without a fit is uniform."""
    ends = [_rung(low, *first), _rung(low + gap, *second)]
    policy = Policy(*ends, Provenance(num_steps=N), ladder=tuple(ends))
    near = [s for s in ends if s.budget == budget] or ends
    near = ends[:1] if budget < low else ends[1:] if budget > low + gap else near
    rules = {s.forecaster for s in near}
    winners = (name for name in ("reuse", "variable-order", "variable-order-flow") if name in rules)
    rule = next(winners, rules.pop() if len(rules) == 1 else "fitted")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtcacheNotice)
        found = [policy.schedule(budget), policy.schedule(budget, num_steps=N - 1)]
    for schedule in found:
        assert schedule.forecaster == rule
        plain = [s for s in near if s.forecaster != "fitted"]
        if rule == "reuse" and any(s.computed == uniform_steps(N, s.budget) for s in plain):
            assert schedule.computed == uniform_steps(schedule.num_steps, budget)


@pytest.mark.parametrize("prediction", ["", "flow"])
def test_beside_the_schedule_without_calibration_there_is_that_of_the_budget(
    provenance: Provenance, prediction: str
) -> None:
    """On the policy's own run and on another, as if nothing had been calibrated."""
    low, high = (default_schedule(N, b, provenance.grid, prediction) for b in (4, 9))
    policy = Policy(low, high, provenance, ladder=(low, high))
    assert policy.schedule(6) == default_schedule(N, 6, provenance.grid, prediction)
    assert policy.interpolation.ends(6) is None
    other = np.linspace(1.0, 0.0, N + 6) ** 1.3
    with pytest.warns(OtcacheNotice, match="mapped"):
        assert policy.schedule(6, grid=other) == default_schedule(N + 5, 6, other, prediction)


def test_linear_and_fitted_forecasts_meet_in_strengths(provenance: Provenance) -> None:
    """Linear is strength 1: beside strength 0 the part of it is lam."""
    low = Schedule(N, (0, 10)).with_weights([(0.0,), (0.0, 0.0)])
    high = Schedule(N, (0, 5, 10, 20, 30), forecaster="linear")
    got = Policy(low, high, provenance).schedule(3)
    assert (got.forecaster, got.memory) == ("fitted", 2)
    lam = (1 / 2 - 1 / 3) / (1 / 2 - 1 / 5)
    theta = StrengthCurve.of(got, np.array(provenance.grid))(2 / 3, 2)
    assert theta == pytest.approx((0.0, lam))


def test_what_computes_everything_has_no_rule(provenance: Provenance) -> None:
    fitted = Schedule(N, (0, 10, 20)).with_weights([(0.1,)] * 3)
    policy = Policy(fitted, fitted, provenance, ladder=(fitted, Schedule.full(N)))
    got = policy.schedule(30)
    assert got.forecaster == "fitted"
    assert got.computed == interpolate(fitted, Schedule.full(N), 30).computed


def test_it_takes_well_under_a_millisecond(policy: Policy) -> None:
    for budget in range(1, N + 1):
        policy.schedule(budget)
    began = time.perf_counter()
    for _ in range(20):
        for budget in range(1, N + 1):
            policy.schedule(budget)
    assert (time.perf_counter() - began) / (20 * N) < 0.5e-3


def test_the_same_call_gives_the_same_object(policy: Policy) -> None:
    assert policy.schedule(7) is policy.schedule(7)
    with pytest.warns(OtcacheNotice):
        assert policy.schedule(7, num_steps=30) is policy.schedule(7, num_steps=30)
    again = msgspec.convert(msgspec.to_builtins(policy), Policy)
    assert again.schedule(7) == policy.schedule(7)


@pytest.mark.parametrize("budget", [0, N + 1, "ten", 5.0])
def test_a_budget_out_of_range_is_refused(policy: Policy, budget: object) -> None:
    with pytest.raises(ScheduleError, match="budget must be an integer between 1 and 50, got"):
        policy.schedule(budget)


@pytest.mark.parametrize("n", [12, 30, 100])
def test_another_step_count_is_mapped_with_a_notice(policy: Policy, n: int) -> None:
    for budget in (1, 4, 7, n):
        with pytest.warns(OtcacheNotice, match=f"the run has {n} steps, the policy was measured"):
            got = policy.schedule(budget, num_steps=n)
        assert (got.num_steps, got.budget) == (n, budget)
    assert got == Schedule.full(n)


def test_twice_the_steps_keep_place_and_strength(policy: Policy) -> None:
    with pytest.warns(OtcacheNotice):
        got = policy.schedule(10, num_steps=100)
    assert got.computed == tuple(2 * k for k in policy.schedule(10).computed)
    fine = np.interp(np.arange(101) / 2, np.arange(51), grid_of(policy))
    theirs = StrengthCurve.of(got, fine)(0.5, 3)
    assert theirs == pytest.approx(StrengthCurve.of(policy.ladder[1], grid_of(policy))(0.5, 3))


def test_large_budgets_of_a_longer_run_are_read_by_their_share() -> None:
    """Three times the steps, three times the computed ones: the same schedule, more finely."""
    low, high = Schedule(20, (0, 3, 9, 15)), Schedule(20, (0, 1, 4, 6, 8, 10, 12, 14, 16, 18))
    short = Policy(low, high, Provenance(num_steps=20))
    with pytest.warns(OtcacheNotice):
        half = short.schedule(30, num_steps=60)
    assert half.computed[::3] == tuple(3 * k for k in high.computed)
    with pytest.warns(OtcacheNotice):
        fifteen = short.schedule(15, num_steps=60)  # a quarter: as 5 of 20
    assert fifteen.computed[::3] == tuple(round(60 * q) for q in _between(low, high, 5))
    with pytest.warns(OtcacheNotice):
        fewer = short.schedule(14, num_steps=60)  # less: as 14 of 20, where the highest is read
    targets = 60 * np.interp(np.arange(14) / 14, np.arange(11) / 10, [*high.computed, 20]) / 20
    assert np.abs(np.array(fewer.computed) - targets).max() <= 1.0


def _between(low: Schedule, high: Schedule, budget: int) -> list[float]:
    """Displacement interpolation at a budget, by hand."""
    lam = (1 / low.budget - 1 / budget) / (1 / low.budget - 1 / high.budget)
    u = np.arange(budget) / budget
    n = low.num_steps
    a, b = (
        np.interp(u, np.arange(s.budget + 1) / s.budget, [*s.computed, n]) / n for s in (low, high)
    )
    return list((1 - lam) * a + lam * b)


def test_small_budgets_of_a_longer_run_are_read_by_their_number(policy: Policy) -> None:
    for budget in (4, 10):  # rungs: at less than a quarter of 100 steps they come back as they are
        with pytest.warns(OtcacheNotice):
            got = policy.schedule(budget, num_steps=100)
        assert got.computed == tuple(2 * k for k in policy.schedule(budget).computed)


def test_a_shorter_run_reads_every_budget_by_its_number(policy: Policy) -> None:
    with pytest.warns(OtcacheNotice):
        got = policy.schedule(10, num_steps=25)  # 40 % of it; of the policy's own 10 are 20 %
    wanted = np.array(policy.schedule(10).computed) / 2
    assert np.abs(np.array(got.computed) - wanted).max() <= 1.0


def test_no_rounding_to_the_policys_own_steps_comes_in_between(policy: Policy) -> None:
    """Between two rungs a finer run can be nearer to the warp than twice the coarse steps."""
    wanted = 20 * N * np.array(_between(*policy.ladder, 7))
    with pytest.warns(OtcacheNotice):
        got = policy.schedule(7, num_steps=20 * N)
    assert np.abs(np.array(got.computed) - wanted).max() <= 0.5 + 1e-9


def test_another_grid_is_mapped_by_noise_level(policy: Policy) -> None:
    other = np.linspace(1.0, 0.0, N + 1) ** 2.4
    with pytest.warns(OtcacheNotice, match="on its own grid"):
        got = policy.schedule(4, grid=other)
    old = grid_of(policy)[list(policy.ladder[0].computed)]
    nearest = [int(np.abs(other[:N] - s).argmin()) for s in old]
    assert np.abs(np.array(got.computed) - nearest).max() <= 1
    assert got.computed != policy.ladder[0].computed


def test_the_same_grid_up_to_rounding_is_no_other_grid(policy: Policy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = grid_of(policy).astype(np.float32)
        assert policy.schedule(4, num_steps=N, grid=near) == policy.ladder[0]


def test_strict_refuses_to_map(policy: Policy) -> None:
    with pytest.raises(MismatchError, match="the run has 30 steps, the policy was measured on 50"):
        policy.schedule(4, num_steps=30, strict=True)
    with pytest.raises(MismatchError, match="on its own grid"):
        policy.schedule(4, grid=np.linspace(1.0, 0.0, N + 1) ** 3, strict=True)


@pytest.mark.parametrize(
    ("grid", "n"),
    [
        ([1.0], None),
        ([1.0, 0.0], 5),
        ([1.0, np.nan], None),
        ([1.0, 0.0, 0.5], None),
        ("abc", None),
        (3, None),
        ([[1.0, 0.0]], None),
    ],
)
def test_a_grid_that_is_none_is_refused(policy: Policy, grid: list[float], n: int | None) -> None:
    with pytest.raises(ScheduleError, match="grid must be"):
        policy.schedule(1, num_steps=n, grid=grid)


@pytest.mark.parametrize("n", [0, -1, True, 4.0, "4", 10**12])
def test_a_step_count_that_is_none_is_refused(policy: Policy, n: Any) -> None:
    with pytest.raises(
        ScheduleError, match="num_steps must be an integer between 1 and 100000, got"
    ):
        policy.schedule(1, n)


@given(budget=st.integers(1, N), n=st.integers(1, N), graded=st.booleans())
def test_a_run_of_no_more_steps_than_the_budget_computes_them_all(
    budget: int, n: int, graded: bool
) -> None:
    ends = Schedule(N, (0, 5, 20)), Schedule(N, tuple(range(0, N, 5)))
    policy = Policy(*ends, Provenance(N, grid=tuple(np.linspace(1.0, 0.0, N + 1))))
    grid = np.linspace(1.0, 0.0, n + 1) ** 2 if graded else None
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        got = policy.schedule(np.array(budget), np.int32(n), grid)
    assert got.budget == min(budget, n)
    said = [str(w.message) for w in heard if "every step is computed" in str(w.message)]
    assert len(said) == (budget >= n and (n < N or graded))
    if budget > n:
        with pytest.raises(MismatchError, match=f"the run has {n} step"):
            policy.schedule(budget, n, grid, strict=True)


def test_an_inversion_computes_every_step(policy: Policy) -> None:
    for n in (20, N):
        rising = np.linspace(0.0, 1.0, n + 1)
        with pytest.warns(OtcacheNotice, match="noise levels go the other way"):
            assert policy.schedule(4, grid=rising) == Schedule.full(n)
        with pytest.raises(MismatchError):
            policy.schedule(4, grid=rising, strict=True)


def test_a_policy_measured_on_restarts_runs_on_their_grid() -> None:
    jumps = (1.0, 0.6, 0.3, 0.8, 0.4, 0.2, 0.0)
    a, r = Schedule(6, (0, 3)), Schedule(6, (0, 1, 3, 4))
    measured = Policy(a, r, Provenance(num_steps=6, grid=jumps))
    assert measured.schedule(2, grid=jumps) is a
    with pytest.raises(ScheduleError, match=r"monotone, got '0\.2 before 0\.9 at step 1'"):
        measured.schedule(2, grid=(1.0, 0.2, 0.9, 0.0))


def test_a_policy_without_grid_maps_by_position() -> None:
    a, r = Schedule(10, (0, 4)), Schedule(10, (0, 2, 4, 6))
    bare = Policy(a, r, Provenance(num_steps=10))
    with pytest.warns(OtcacheNotice):
        assert bare.schedule(2, num_steps=20).computed == (0, 8)


def test_a_policy_is_a_value(policy: Policy) -> None:
    again = msgspec.convert(msgspec.to_builtins(policy), Policy)
    assert again == policy
    assert hash(again) == hash(policy)
    with pytest.raises(AttributeError):
        policy.solver = "mine"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"anchor": Schedule.full(3)}, "anchor.num_steps must be 50, got 3"),
        (
            {"ladder": (Schedule.full(50), Schedule(50, (0,)))},
            "distinct and increasing, got [50, 1]",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy: Policy, change: dict, text: str) -> None:
    with pytest.raises(OtcacheError) as caught:
        msgspec.structs.replace(policy, **change)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_class", "WanTransformer3DModel"),
        ("config_hash", "x"),
        ("prediction_type", "epsilon"),
    ],
)
def test_another_model_is_refused_with_the_reason(policy: Policy, field: str, value: str) -> None:
    with pytest.raises(MismatchError) as caught:
        policy.check({field: value})
    wanted = getattr(policy.provenance, field)
    assert f"differs: got {value!r}, expected {wanted!r}" in str(caught.value)
    assert "calibrate again" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheduler_class", "DDIMScheduler"),
        ("resolution", 4096),
        ("guidance", 5.0),
        ("num_steps", 30),
        ("grid", np.linspace(1.0, 0.0, 31)),
    ],
)
def test_another_setting_is_a_notice_or_an_error_under_strict(
    policy: Policy, field: str, value: object
) -> None:
    (notice,) = policy.check({field: value})
    assert notice.startswith(f"{field.replace('_', ' ')} differs: got ")
    with pytest.raises(MismatchError, match="under strict"):
        policy.check({field: value}, strict=True)


def test_what_agrees_or_is_unknown_is_passed_over(policy: Policy) -> None:
    assert policy.check(policy.provenance.to_dict(), strict=True) == []
    assert policy.check({"model_class": None, "resolution": 0, "prompts_digest": "x"}) == []
    bare = Provenance(num_steps=50)
    assert bare.check({"model_class": "Any", "grid": [1.0, 0.0]}) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_steps": 0, "grid": None}, "provenance.num_steps must be at least 1, got 0"),
        ({"grid": [1.0, 0.0]}, "provenance.grid must be 51 values s_0 .. s_N, got '2 values'"),
        ({"grid": [float("nan")] * 51}, "provenance.grid must be finite"),
        ({"resolution": -1}, "provenance.resolution must be an integer of at least 0"),
        ({"num_steps": "many"}, "Expected `int`, got `str`"),
        ({"modle_class": "x"}, "unknown field `modle_class`"),
    ],
)
def test_bad_provenance_is_refused(provenance: Provenance, change: dict, text: str) -> None:
    with pytest.raises(OtcacheError) as caught:
        Provenance.from_dict({**provenance.to_dict(), **change})
    assert text in str(caught.value)


def test_provenance_of_numpy_numbers_is_saved_and_loaded(tmp_path: Path) -> None:
    steps = Schedule(4, (0, 2))
    grid = np.linspace(1, 0, 5)
    for row in (grid, tuple(grid), list(grid), grid.astype(np.float32)):
        made = Policy(steps, steps, Provenance(np.int64(4), resolution=np.int32(64), grid=row))
        made.save(tmp_path / "p.otcache")
        assert Policy.load(tmp_path / "p.otcache") == made
    for bad in ({"grid": "abcde"}, {"resolution": 64.5}, {"num_steps": True}):
        with pytest.raises(OtcacheError, match=f"provenance.{next(iter(bad))} must be"):
            Provenance(**{"num_steps": 4, **bad})


def test_inside_the_ladder_only_rungs_are_neighbours(policy: Policy) -> None:
    stray = Schedule(N, (0, 45, 46, 47, 48, 49))
    assert msgspec.structs.replace(policy, reference=stray).schedule(6) == policy.schedule(6)


def test_weights_of_branches_are_interpolated_each_on_its_own(provenance: Provenance) -> None:
    """Strengths 1 and 0 at both ends stay so in between: linear extrapolation, and reuse."""
    low, high = Schedule(N, (0, 12, 30)), Schedule(N, (0, 5, 10, 20, 30, 40))
    grid = np.array(provenance.grid)

    def fitted(schedule: Schedule) -> Schedule:
        linear = [linear_weights(span, grid, 2) for span in schedule.spans()]
        return schedule.with_weights(linear, {"uncond": [(0.0,) * len(row) for row in linear]})

    got = Policy(fitted(low), fitted(high), provenance).schedule(4)
    for span in list(got.spans("cond"))[1:]:
        np.testing.assert_allclose(span.weights, linear_weights(span, grid, 2), rtol=1e-9)
    assert all(c == 0 for span in got.spans("uncond") for c in span.weights)


def test_unlike_forecasters_without_strengths_reuse_on_any_run(provenance: Provenance) -> None:
    ends = [Schedule(N, (0, 10), "taylor"), Schedule(N, (0, 5, 10, 20, 30), "mean-velocity")]
    policy = Policy(*ends, provenance)
    with pytest.warns(OtcacheNotice):
        mapped = policy.schedule(4, num_steps=30)
    for got in (policy.schedule(4), mapped):
        assert (got.forecaster, got.weights) == ("reuse", ())


def test_strengths_are_read_on_the_policys_own_grid(provenance: Provenance) -> None:
    """Linear extrapolation stays linear extrapolation on another grid of as many steps."""
    linear = [Schedule(N, s, "linear") for s in ((0, 12, 30), (0, 5, 10, 20, 30, 40))]
    rows = [
        [linear_weights(span, np.array(provenance.grid), 2) for span in s.spans()] for s in linear
    ]
    fitted = [s.with_weights(c) for s, c in zip(linear, rows, strict=True)]
    other = np.linspace(1.0, 0.0, N + 1) ** 2.4
    with pytest.warns(OtcacheNotice):
        got = Policy(*fitted, provenance).schedule(4, grid=other)
    for span in list(got.spans())[1:]:
        np.testing.assert_allclose(span.weights, linear_weights(span, other, 2), rtol=1e-9)


def test_weights_that_are_no_strengths_are_not_resampled(provenance: Provenance) -> None:
    """Lookbacks of mean-velocity belong to spans of their own schedule."""
    ends = [
        msgspec.structs.replace(
            Schedule(N, steps), forecaster="mean-velocity", weights=tuple((3.0,) for _ in steps)
        )
        for steps in [(0, 10, 20), (0, 5, 10, 20, 30, 40)]
    ]
    between = Policy(*ends, provenance).schedule(4)
    assert (between.forecaster, between.weights) == ("mean-velocity", ())
    fitted = Schedule(N, (0, 5, 10, 20, 30, 40)).with_weights([(0.1,)] * 6)
    mixed = Policy(ends[0], fitted, provenance).schedule(4)
    assert (mixed.forecaster, mixed.weights) == ("reuse", ())
