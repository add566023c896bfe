"""Tables of computed steps, and schedules as files and masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import FileError, Schedule, ScheduleError, ScheduleTable

TABLE = ScheduleTable("mine", "by hand", 10, ((0, 5), (0, 2, 4, 7)))
schedules = st.integers(1, 40).flatmap(
    lambda n: st.sets(st.integers(0, n - 1)).map(lambda s: Schedule(n, tuple(sorted(s | {0}))))
)


@given(schedules)
def test_a_mask_and_back(schedule: Schedule) -> None:
    mask = schedule.to_mask()
    assert (len(mask), sum(mask)) == (schedule.num_steps, schedule.budget)
    assert Schedule.from_mask(mask) == schedule


@pytest.mark.parametrize("mask", [(), (0, 1), (1, 2)])
def test_bad_masks(mask: tuple[int, ...]) -> None:
    with pytest.raises(ScheduleError, match="must be"):
        Schedule.from_mask(mask)


def test_a_mask_cannot_say_what_branches_do() -> None:
    schedule = Schedule(4, (0, 2), branches=(("uncond", (0,)),))
    with pytest.raises(ScheduleError, match="a mask holds one row"):
        schedule.to_mask()


def test_a_schedule_as_a_file(tmp_path: Path) -> None:
    schedule = Schedule(6, (0, 2, 3), branches=(("uncond", (0, 3)),)).with_weights([(0.5,)] * 3)
    schedule.save(tmp_path / "s.json")
    assert Schedule.load(tmp_path / "s.json") == schedule


def test_a_table_as_a_file(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "t.json")
    assert ScheduleTable.load(tmp_path / "t.json") == TABLE


def test_a_row_that_is_no_schedule_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    TABLE.save(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, "rows": [[1, 2]]}), encoding="utf-8")
    with pytest.raises(FileError, match=r"t\.json: .*begin with 0"):
        ScheduleTable.load(path)


def test_rows() -> None:
    assert TABLE.schedule(4) == Schedule(10, (0, 2, 4, 7))
    with pytest.raises(
        ScheduleError, match="budget must be one of 2, 4 in the table 'mine', got 3"
    ):
        TABLE.schedule(3)
    with pytest.raises(ScheduleError, match="distinct and rising"):
        ScheduleTable("mine", "", 10, ((0, 5), (0, 4)))


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_resampled(at: tuple[int, int]) -> None:
    budget, num_steps = at
    schedule = TABLE.resampled(budget, num_steps)
    assert (schedule.budget, schedule.num_steps) == (budget, num_steps)


def test_resampled_to_itself_and_to_twice_the_steps() -> None:
    for row in TABLE.rows:
        assert TABLE.resampled(len(row), 10).computed == row
        assert TABLE.resampled(2 * len(row), 20).computed[::2] == tuple(2 * step for step in row)
