"""Numbers as people have them."""

import itertools
import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core.errors import OtcacheError, ScheduleError, shown
from otcache_core.numbers import integer, reals

WHOLE = st.integers(-(2**31), 2**31 - 1)
KINDS = (int, np.int64, np.int32, lambda n: np.array(n), lambda n: np.array([0, n])[1])


@given(WHOLE, st.sampled_from(KINDS))
def test_an_integer_of_any_kind_is_taken_as_an_int(number, kind):
    taken = integer("budget", kind(number))
    assert type(taken) is int
    assert taken == number


@given(WHOLE, WHOLE, WHOLE)
def test_it_lies_in_its_range_or_is_refused(number, low, high):
    if low <= number <= high:
        assert integer("budget", number, low, high) == number
        return
    with pytest.raises(OtcacheError, match=f"between {low} and {high}, got {number}"):
        integer("budget", number, low, high)


@pytest.mark.parametrize(
    "value",
    [
        *(
            True,
            np.True_,
            np.array(True),
            2.5,
            math.nan,
            math.inf,
            "3",
            None,
            [3],
            np.array([3, 4]),
        ),
        *(3j, np.complex128(3), Decimal("sNaN"), np.datetime64("2020"), np.array("x")),
        Fraction(10**400, 3),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_integer_is_refused_by_name(value):
    with pytest.raises(ScheduleError, match=r"^budget must be an integer of at least 1, got .*\.$"):
        integer("budget", value, 1, kind=ScheduleError)


@pytest.mark.remedy("write {}, without a point")
@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.array])
def test_a_whole_float_is_refused_with_the_integer_to_give(kind):
    with pytest.raises(OtcacheError, match=r"write 12, without a point\.$") as refused:
        integer("num_steps", kind(12.0), 1)
    advised = re.search(r"write (\d+), without", str(refused.value))
    assert integer("num_steps", int(advised[1]), 1) == 12


def test_no_integer_out_of_range_is_advised():
    with pytest.raises(OtcacheError, match=r"got 99\.0: a schedule computes the first step\.$"):
        integer("budget", 99.0, 1, 12, advice="a schedule computes the first step.")


@given(st.lists(st.floats(-1e6, 1e6)), st.sampled_from((list, tuple, np.array, iter)))
def test_a_row_of_any_kind_is_taken_as_floats(row, kind):
    assert reals("grid", kind(row)) == row


@pytest.mark.parametrize(
    "values",
    [
        "abc",
        "321",
        ["1.0"],
        b"321",
        {1.0: 0},
        {1.0, 0.0},
        None,
        3,
        [None],
        [1j],
        [np.complex128(1.0)],
        np.array([1.0, 0j]),
        [[1.0]],
        np.eye(9),
        [10**5000],
        itertools.count(),
    ],
    ids=shown,
)
def test_what_is_no_row_of_numbers_is_refused_by_name_on_one_line(values):
    with pytest.raises(OtcacheError, match=r"^grid must be a row of numbers, got .*\.$") as refused:
        reals("grid", values)
    assert "\n" not in str(refused.value)
