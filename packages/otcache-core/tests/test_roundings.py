"""Several roundings of one interpolation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import Schedule, ScheduleError
from otcache_core.transport import interpolate, roundings, targets_between

ANCHOR, REFERENCE = Schedule(16, (0, 12)), Schedule(16, (0, 5, 10, 13, 15))


@st.composite
def questions(draw: st.DrawFn) -> tuple[Schedule, Schedule, int]:
    n = draw(st.integers(3, 12))
    ends = [Schedule(n, (0, *sorted(draw(st.sets(st.integers(1, n - 1)))))) for _ in range(2)]
    return ends[0], ends[1], draw(st.integers(2, n))


def _by_enumeration(positions: np.ndarray, n: int) -> list[float]:
    """Squared distances of every feasible rounding to a neighbour, sorted."""
    found = []
    for rest in combinations(range(1, n), len(positions) - 1):
        near = np.floor(positions[1:])
        if all(k in (low, low + 1) for k, low in zip(rest, near, strict=True)):
            found.append(float(((np.array(rest) - positions[1:]) ** 2).sum()))
    return sorted(found)


@settings(deadline=None)
@given(questions(), st.integers(1, 12))
def test_they_are_the_nearest_ones_of_all(
    question: tuple[Schedule, Schedule, int], limit: int
) -> None:
    anchor, reference, budget = question
    got = roundings(anchor, reference, budget, limit)
    assert got[0].computed == interpolate(anchor, reference, budget).computed
    assert len({s.computed for s in got}) == len(got) <= limit
    if budget in (anchor.budget, reference.budget) or budget > 12:
        return
    n = anchor.num_steps
    positions = n * targets_between(anchor, reference, budget)
    every = _by_enumeration(positions, n)
    others = sorted(float(((np.array(s.computed) - positions) ** 2).sum()) for s in got[1:])
    floors = np.floor(positions[1:])
    inside = all(k in (low, low + 1) for k, low in zip(got[0].computed[1:], floors, strict=True))
    if inside:  # where targets collide, the exact rounding may go beyond their neighbours
        others.insert(0, float(((np.array(got[0].computed) - positions) ** 2).sum()))
    assert len(others) <= len(every)
    if limit == 12 and budget <= 12:
        np.testing.assert_allclose(others, every[: len(others)], atol=1e-9)


def test_at_the_ends_nothing_is_rounded() -> None:
    assert roundings(ANCHOR, REFERENCE, 2, 8) == [ANCHOR]
    assert roundings(ANCHOR, REFERENCE, 5, 8) == [REFERENCE]


def test_a_hand_made_example() -> None:
    r"""lam(4) = 5/6: targets 12/6 + 5/6 * 5 and so on are 6.21, 11.58, 14.42."""
    got = [s.computed for s in roundings(ANCHOR, REFERENCE, 4, 8)]
    assert got[:3] == [(0, 6, 12, 14), (0, 6, 11, 14), (0, 6, 12, 15)]  # the last two tie
    assert len(got) == 8


@pytest.mark.parametrize("limit", [0, 13])
def test_a_limit_out_of_range_is_refused(limit: int) -> None:
    with pytest.raises(ScheduleError, match="limit must be between 1 and 12"):
        roundings(ANCHOR, REFERENCE, 3, limit)
