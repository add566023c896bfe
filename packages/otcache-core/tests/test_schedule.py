"""A schedule is plain, checked data."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from otcache_core import Schedule, ScheduleError
from otcache_core.schedule import Span, check_budget


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_steps": 0, "computed": (0,)}, "num_steps must be at least 1, got 0."),
        (
            {"num_steps": 5, "computed": ()},
            "computed must be steps that begin with 0, got (): "
            "the first step has nothing to reuse.",
        ),
        (
            {"num_steps": 5, "computed": (1, 2)},
            "computed must be steps that begin with 0, got (1, 2): "
            "the first step has nothing to reuse.",
        ),
        (
            {"num_steps": 5, "computed": (0, 3, 3)},
            "computed must be distinct increasing steps below 5, got (0, 3, 3).",
        ),
        (
            {"num_steps": 5, "computed": (0, 5)},
            "computed must be distinct increasing steps below 5, got (0, 5).",
        ),
        (
            {"num_steps": 5, "computed": (0, 2), "weights": ((0.1,),)},
            "weights must be one tuple for each of the 2 spans, got 1.",
        ),
        (
            {"num_steps": 5, "computed": (0,), "weights": ((math.nan,),)},
            "weights must be finite, got NaN or infinity: fit them again.",
        ),
        (
            {"num_steps": 5, "computed": (0, 2), "branches": (("u", (0, 1)),)},
            "branch 'u' must be a subset of (0, 2), got (0, 1).",
        ),
    ],
)
def test_a_bad_schedule_says_what_where_got_and_expected(fields: dict, text: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        Schedule(**fields)
    assert str(caught.value) == text


@pytest.mark.parametrize("computed", [(0, 1.5), "ten", (0, None), 3])
def test_steps_that_are_no_integers_are_refused(computed: object) -> None:
    with pytest.raises(ScheduleError, match="a schedule takes integers"):
        Schedule(num_steps=5, computed=computed)


def test_lists_and_numpy_numbers_become_plain() -> None:
    made = Schedule(np.int64(5), list(np.array([0, 2])), weights=[[np.float32(0.5)], [0.25, 1]])
    plain = Schedule(5, (0, 2), weights=((0.5,), (0.25, 1.0)))
    assert made == plain
    assert hash(made) == hash(plain)
    assert {type(k) for k in made.computed} == {int}
    assert msgspec.json.decode(msgspec.json.encode(made), type=Schedule) == plain


def test_spans_cover_the_run_and_know_their_history() -> None:
    spans = list(Schedule(10, (0, 1, 4), weights=((), (0.5,), (0.25,))).spans())
    assert spans == [
        Span(0, 1, (), ()),
        Span(1, 4, (0,), (0.5,)),
        Span(4, 10, (1, 0), (0.25,)),
    ]
    assert [list(s.skipped) for s in spans] == [[], [2, 3], [5, 6, 7, 8, 9]]


def test_a_branch_of_its_own_has_spans_of_its_own_and_no_weights() -> None:
    schedule = Schedule(6, (0, 2, 4), "fitted", ((0.1,),) * 3, (("uncond", (0, 4)),))
    assert [(s.start, s.stop) for s in schedule.spans("uncond")] == [(0, 4), (4, 6)]
    assert all(s.weights == () for s in schedule.spans("uncond"))
    assert schedule.computed_for("cond") == (0, 2, 4)


def test_full_budget_speedup_and_memory() -> None:
    assert Schedule.full(3).computed == (0, 1, 2)
    schedule = Schedule(12, (0, 3, 6)).with_weights([(0.0,), (0.0, 1.0), (0.0, 1.0, 2.0)])
    assert (schedule.budget, schedule.ideal_speedup, schedule.memory) == (3, 4.0, 3)
    assert schedule.forecaster == "fitted"
    assert Schedule(12, (0,)).memory == 1


def test_the_sub_grid_keeps_the_end() -> None:
    assert Schedule(4, (0, 2)).to_sigmas([1.0, 0.75, 0.5, 0.25, 0.0]) == (1.0, 0.5, 0.0)
    with pytest.raises(ScheduleError, match="grid must be 5 values, got '2 values'"):
        Schedule(4, (0, 2)).to_sigmas([1.0, 0.0])


@pytest.mark.parametrize("kind", [list, tuple, np.array, iter])
def test_a_row_of_any_kind_is_taken(kind: Any) -> None:
    wanted = Schedule(4, (0, 2))
    assert Schedule(np.int32(4), kind([0, 2])) == wanted
    assert Schedule.from_mask(kind([1, 0, 1, 0])) == Schedule.from_mask([True, False] * 2) == wanted
    assert wanted.to_sigmas(kind([4, 3, 2, 1, 0])) == (4.0, 2.0, 0.0)
    assert Schedule.full(np.int64(4)) == Schedule(4, range(4))


def test_a_mask_in_the_place_of_steps_is_refused_with_what_takes_it() -> None:
    mask = [True, False, True, False]
    with pytest.raises(ScheduleError, match=r"Schedule\.from_mask\(\.\.\.\) takes a mask"):
        Schedule(4, mask)
    assert Schedule.from_mask(mask).computed == (0, 2)


@pytest.mark.parametrize("steps", [0, True, 2.5, "4", None, 10**12])
def test_a_full_schedule_needs_a_step_count(steps: Any) -> None:
    with pytest.raises(ScheduleError, match="num_steps must be an integer between 1 and 100000"):
        Schedule.full(steps)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_steps": True, "computed": (0,)}, "num_steps is True"),
        ({"num_steps": 2, "computed": [True, False]}, r"Schedule\.from_mask"),
        ({"num_steps": 2, "computed": np.array([True, False])}, r"Schedule\.from_mask"),
    ],
)
def test_truth_values_are_no_numbers(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ScheduleError, match=text):
        Schedule(**fields)


def test_schedules_are_ordered_and_survive_json() -> None:
    low, high = Schedule(5, (0, 1)), Schedule(5, (0, 2))
    assert sorted([high, low]) == [low, high]
    assert msgspec.convert(low.to_dict(), Schedule) == low


@pytest.mark.parametrize("budget", [0, 11, -1, "ten", 12.0, True, None])
def test_a_bad_budget_is_refused(budget: object) -> None:
    with pytest.raises(ScheduleError) as caught:
        check_budget(budget, 10)
    assert str(caught.value) == f"budget must be an integer between 1 and 10, got {budget!r}."


def test_a_branch_may_have_weights_of_its_own() -> None:
    schedule = Schedule(9, (0, 3)).with_weights([(0.1,), (0.1, 0.2)], {"uncond": [(0.0,), (0.3,)]})
    assert [span.weights for span in schedule.spans("uncond")] == [(0.0,), (0.3,)]
    assert [span.weights for span in schedule.spans("cond")] == [(0.1,), (0.1, 0.2)]
    assert schedule.memory == 2
    assert schedule.without_weights() == Schedule(9, (0, 3))
    assert msgspec.convert(schedule.to_dict(), Schedule) == schedule


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((("b", ((0.1,),)),), "weights must be one tuple for each of the 2 spans, got 1"),
        ((("b", ((0.1,), (float("nan"),))),), "weights must be finite"),
        ((("b", ((0.1,), (0.2,))), ("a", ((0.1,), (0.2,)))), "distinct, sorted names"),
    ],
)
def test_bad_branch_weights(pairs: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Schedule(9, (0, 3), "fitted", branch_weights=pairs)
