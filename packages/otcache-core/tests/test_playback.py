"""Tables of plans, and what follows them: on numpy and jax arrays here, on torch's in otcache-diffusers."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import Playback, PlaybackTable, Policy, Provenance, Schedule
from otcache_core.contracts.planning import Forecaster, forecaster_of
from otcache_core.errors import ExecutionError, FileError, OtcacheError, ScheduleError
from otcache_core.forecasters import Fitted, Reuse
from otcache_core.playback import BranchPlan, playback_table
from otcache_core.plugins.registry import installed
from otcache_core.testing import PlaybackConformance


class TestNumpy(PlaybackConformance):
    def to_engine(self, array: Any) -> Any:
        return array.astype(np.float32)

    def to_numpy(self, output: Any) -> Any:
        return output

    def to_half(self, array: Any) -> Any:
        return array.astype(np.float16)

    def overwrite(self, output: Any) -> None:
        output[...] = np.nan


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
class TestJax(PlaybackConformance):
    def to_engine(self, array: Any) -> Any:
        return import_module("jax.numpy").asarray(array, dtype="float32")

    def to_numpy(self, output: Any) -> Any:
        return np.asarray(output)

    def to_half(self, array: Any) -> Any:
        return import_module("jax.numpy").asarray(array, dtype="bfloat16")


STEPS = 8


@st.composite
def schedules(draw: Any) -> Schedule:
    later = draw(st.sets(st.integers(1, STEPS - 1)))
    steps = (0, *sorted(later))
    name = draw(st.sampled_from(["reuse", "linear", "fitted", "taylor"]))
    if name != "fitted":
        return Schedule(STEPS, steps, name)
    weights = st.floats(-2, 2, allow_nan=False)
    rows = [tuple(draw(st.lists(weights, max_size=min(3, m + 1)))) for m in range(len(steps))]
    return Schedule(STEPS, steps, name, tuple(rows))


def policy_of(schedule: Schedule, **facts: Any) -> Policy:
    return Policy(schedule, schedule, Provenance(num_steps=schedule.num_steps, **facts))


GRID = tuple(np.linspace(1, 0, STEPS + 1).tolist())


@given(schedules())
def test_an_exported_table_holds_what_the_forecaster_gives(schedule: Schedule) -> None:
    table = policy_of(schedule, grid=GRID).export(schedule.budget)
    plan, forecaster = table.plan("any"), forecaster_of(installed(), schedule.forecaster)
    assert (plan.computed, table.budget) == (schedule.computed, schedule.budget)
    for span in schedule.spans():
        rows = forecaster.coefficients(span, np.array(GRID)) if span.skipped else ()
        for step, row in zip(span.skipped, rows, strict=True):
            wanted = dict(zip((span.start, *span.history), map(float, row), strict=False))
            terms = dict(plan.forecasts[step] or ())
            assert {k: a for k, a in wanted.items() if a} == {k: a for k, a in terms.items() if a}


@given(schedules())
def test_a_table_reads_back(tmp_path_factory: Any, schedule: Schedule) -> None:
    table = policy_of(schedule, grid=GRID, prediction_type="v_prediction").export(schedule.budget)
    path = tmp_path_factory.getbasetemp() / "table.json"
    table.save(path)
    assert PlaybackTable.load(path) == table
    plain = json.loads(path.read_text())
    assert (plain["format"], plain["version"]) == ("otcache-playback", 2)
    for step, (alpha, sigma) in enumerate(zip(table.alphas, table.sigmas, strict=True)):
        assert np.allclose((sigma / alpha, alpha**2 + sigma**2), (GRID[step], 1))


def test_another_step_count_and_the_provenance_are_in_the_table() -> None:
    policy = policy_of(Schedule(STEPS, (0, 1, 4)), grid=GRID, model_class="Net")
    other = policy_of(Schedule(STEPS, (0, 1, 4)), grid=GRID, model_class="Another")
    longer = np.linspace(1, 0, 17)
    with pytest.warns(UserWarning, match="mapped"):
        table = policy.export(3, 16, longer)
    assert (table.num_steps, table.grid, table.budget) == (16, tuple(longer.tolist()), 3)
    assert len(table.provenance) == 64
    assert table.provenance == policy.export(3).provenance
    assert other.export(3).provenance != table.provenance


@pytest.mark.remedy("give grid=, s_0 .. s_N")
def test_velocity_without_a_grid_is_refused() -> None:
    policy = policy_of(Schedule(STEPS, (0, 1)), prediction_type="v_prediction")
    with pytest.raises(ScheduleError, match="give grid="):
        policy.export(2)
    assert policy.export(2, grid=GRID).forecast_in == "epsilon"


@pytest.mark.remedy("pass state= at every call")
def test_velocity_is_forecast_as_noise() -> None:
    """Of data 0 the noise never changes, so that reuse of it is exact at every noise level."""
    policy = policy_of(Schedule(STEPS, (0,)), grid=GRID, prediction_type="v_prediction")
    playback, noise = Playback(policy.export(1)), np.array([0.3, -1.0])
    playback.begin()
    for step, s in enumerate(GRID[:-1]):
        alpha = 1 / np.hypot(1, s)
        if step == 0:
            playback.keep("", 0, alpha * noise, alpha * s * noise)
        else:
            forecast = playback.forecast("", step, alpha * s * noise)
            np.testing.assert_allclose(forecast, alpha * noise)
    with pytest.raises(OtcacheError, match="state="):
        playback.computes("", STEPS - 1)


@pytest.mark.remedy("call begin() before the first step")
@pytest.mark.remedy("call begin() where a run begins")
def test_runs_begin_where_the_caller_says() -> None:
    playback = Playback(playback_table(Schedule(3, (0,)), Reuse()))
    with pytest.raises(ExecutionError, match="no run was begun"):
        playback.keep("", 0, np.ones(2))
    for _ in range(2):
        playback.begin()
        playback.keep("", 0, np.ones(2))
        assert np.array_equal(playback.forecast("", 2), np.ones(2))
        with pytest.raises(ExecutionError, match="step of branch '' must be from 2 to 2, got 1"):
            playback.forecast("", 1)


def test_steps_without_coefficients_are_computed_and_noted() -> None:
    class Broken(Forecaster):
        def coefficients(self, span: Any, grid: Any) -> Any:
            return np.full((len(span.skipped), 1), np.nan)

    table = playback_table(Schedule(4, (0, 2)), Broken())
    assert table.budget == 4
    (note,) = table.notes
    assert "finite coefficients for the spans (0 -> 2), (2 -> 4)" in note


@pytest.mark.parametrize(
    ("forecasts", "message"),
    [
        ([((0, 1.0),)], "the forecast of step 0"),
        ([None, ()], "the forecast of step 1"),
        ([None, ((0, 1.0),), ((1, 1.0),)], "the forecast of step 2"),
        ([None, ((2, 1.0),), None], "the forecast of step 1"),
        ([None, ((0, float("nan")),)], "the forecast of step 1"),
        ([None, ((0, -1e31),)], "coefficient up to 1e.30 in size"),
        ([None, ((-1, 1.0),)], "the forecast of step 1"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(forecasts: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        BranchPlan.of(forecasts)


def test_tables_that_cannot_be_followed_are_refused(tmp_path: Path) -> None:
    plan = BranchPlan.of([None, ((0, 1.0),)])
    with pytest.raises(ScheduleError, match="needed_until"):
        BranchPlan(plan.forecasts, (0, -1))
    with pytest.raises(ScheduleError, match="one named ''"):
        PlaybackTable(2, {"cond": plan})
    with pytest.raises(ScheduleError, match="one entry for each of 3 steps"):
        PlaybackTable(3, {"": plan})
    with pytest.raises(ScheduleError, match="grid"):
        PlaybackTable(2, {"": plan}, grid=(1.0, 0.0))
    levels: Any = {"alphas": (0.0, 1.0), "sigmas": (1.0, 0.0)}
    with pytest.raises(OtcacheError, match="possible and reversible"):
        PlaybackTable(2, {"": plan}, "v_prediction", "epsilon", **levels)
    with pytest.raises(OtcacheError, match="forecast_in"):
        PlaybackTable(2, {"": plan}, "v_prediction", "velocity", **levels)
    with pytest.raises(OtcacheError, match="2 values, to convert"):
        PlaybackTable(2, {"": plan}, "v_prediction", "epsilon")
    path = tmp_path / "table.json"
    PlaybackTable(2, {"": plan}).save(path)
    path.write_text(path.read_text().replace('"num_steps": 2', '"num_steps": 3'))
    with pytest.raises(FileError, match="one entry for each of 3 steps"):
        PlaybackTable.load(path)


def test_fitted_weights_of_branches_are_in_the_table() -> None:
    schedule = Schedule(3, (0,)).with_weights([(0.5,)], {"uncond": [(-0.25,)]})
    table = playback_table(schedule, Fitted())
    assert table.plan("cond").forecasts[1] == ((0, 1.5),)
    assert table.plan("uncond").forecasts[1] == ((0, 0.75),)
