"""Schedules from and to the files of other projects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otcache
from otcache.schedules import KINDS, names, published, write_schedule
from otcache_core.errors import OtcacheNotice
from otcache_core.policy import Policy, Provenance

Put = Callable[[Any], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write JSON to a file."""

    def write(data: Any) -> Path:
        path = tmp_path / "source.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", names())
def test_published_tables_make_the_round_trip(tmp_path: Path, name: str, kind: str) -> None:
    table = published(name)
    for budget in table.budgets:
        schedule = otcache.load_schedule(name, budget=budget)
        write_schedule(schedule, tmp_path / "out.json", kind)
        steps = table.num_steps
        assert otcache.load_schedule(tmp_path / "out.json", num_steps=steps) == schedule
        assert schedule.computed == table.rows[table.budgets.index(budget)]


@given(steps=st.sets(st.integers(1, 11)), kind=st.sampled_from(KINDS))
def test_any_schedule_makes_it(
    tmp_path_factory: pytest.TempPathFactory, steps: set[int], kind: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "out.json"
    schedule = otcache.Schedule(12, (0, *sorted(steps)))
    write_schedule(schedule, path, kind)
    assert otcache.load_schedule(path, num_steps=12) == schedule


def test_an_index_table_of_another_project(put: Put) -> None:
    path = put({"4": [0, 1, 4, 9], "2": [0, 5]})
    table = otcache.load_table(path, num_steps=10)
    assert table.rows == ((0, 5), (0, 1, 4, 9))
    schedule = otcache.load_schedule(path, budget=4, num_steps=10)
    assert schedule == otcache.Schedule(10, (0, 1, 4, 9))


def test_a_mask_of_cache_dit(put: Put) -> None:
    assert otcache.load_schedule(put([1, 0, 0, 1, 0])) == otcache.Schedule(5, (0, 3))


def test_a_table_is_resampled_elsewhere_with_a_notice() -> None:
    with pytest.warns(OtcacheNotice, match="resampled to 6 of 30"):
        schedule = otcache.load_schedule("lemica-wan-2-1-t2v-14b", budget=6, num_steps=30)
    assert (schedule.budget, schedule.num_steps) == (6, 30)


def test_a_policy_at_a_budget(tmp_path: Path) -> None:
    ends = otcache.Schedule(10, (0, 5)), otcache.Schedule(10, (0, 2, 5, 8))
    facts = Provenance(num_steps=10, model_class="Nobody", config_hash="0")
    path = tmp_path / "p.otcache"
    Policy(anchor=ends[0], reference=ends[1], provenance=facts).save(path)
    assert otcache.load_schedule(path, budget=4) == ends[1]
    with pytest.raises(otcache.ScheduleError, match=r"budget must be given, of 1 \.\. 10"):
        otcache.load_schedule(path)


def test_forecasts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    schedule = otcache.Schedule(4, (0, 2)).with_weights([(0.5,), (0.25,)])
    with pytest.warns(OtcacheNotice, match="forecasts by 'fitted' are omitted"):
        write_schedule(schedule, tmp_path / "m.json", "mask")
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ([0, 1, 3], {}, "num_steps must be given, got None"),
        ([0, 1, 30], {"num_steps": 10}, "distinct increasing steps below 10"),
        ([1, 2, 0], {}, "mask must be a row of 0 and 1"),
        ([1, 0], {"num_steps": 3}, "num_steps must be 2, as in the file, got 3"),
        ([1, 0], {"budget": 2}, "budget must be 1, as in the file, got 2"),
        ([0, "1"], {}, "a row must be whole numbers"),
        ({"3": [0, 1]}, {"num_steps": 10}, "row '3' must be 3, got '2 steps'"),
        ({"2": [0, 1]}, {}, "num_steps must be given"),
        ({"2": [0, 1], "1": [0]}, {"num_steps": 9}, "budget must be given, of 1, 2"),
        ({"attn1": [1, 0]}, {"num_steps": 2}, "the file must be a schedule, table or policy"),
        ({}, {}, "the file must be a schedule, table or policy"),
        ("text", {}, "the file must be a schedule, table or policy"),
    ],
)
def test_what_is_no_schedule(put: Put, data: Any, more: dict[str, int], message: str) -> None:
    with pytest.raises(otcache.OtcacheError, match=message):
        otcache.load_schedule(put(data), **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"budget": True}, "budget must be an integer between 1 and 100000, got True"),
        ({"budget": 0}, "budget must be an integer between 1 and 100000, got 0"),
        ({"budget": 14.0}, "write 14, without a point"),
        ({"budget": 14, "num_steps": "30"}, "num_steps must be an integer between 1 and 100000"),
        ({"budget": 14, "num_steps": 10**20}, "num_steps must be an integer between 1 and 100000"),
    ],
)
def test_what_is_no_number_is_refused_before_anything_is_said(
    recwarn: pytest.WarningsRecorder, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(otcache.ScheduleError, match=message):
        otcache.load_schedule("lemica-wan-2-1-t2v-14b", **more)
    assert not recwarn.list


@pytest.mark.remedy("otcache.load_schedule(...) reads schedules, policies, lists and masks")
def test_what_is_no_table_may_be_a_schedule(put: Put, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    otcache.Schedule(4, (0, 2)).save(path)
    for source in (put([1, 0, 1, 0]), path):
        with pytest.raises(otcache.FileError, match="a table of otcache or an index table, got"):
            otcache.load_table(source)
        assert otcache.load_schedule(source).computed == (0, 2)


@pytest.mark.parametrize("source", [None, 3, b"policy"])
def test_what_is_no_name_at_all(source: Any) -> None:
    for load in (otcache.load_schedule, otcache.load_table):
        with pytest.raises(otcache.FileError, match="a file, or one of lemica-flux-1-dev"):
            load(source)


def test_no_file_and_no_name() -> None:
    with pytest.raises(otcache.FileError, match="a file, or one of lemica-flux-1-dev"):
        otcache.load_schedule("nosuch")


def test_a_kind_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(otcache.ScheduleError, match="kind must be one of schedule, indices, mask"):
        write_schedule(otcache.Schedule(4, (0, 2)), tmp_path / "x.json", "yaml")
    assert not (tmp_path / "x.json").exists()
