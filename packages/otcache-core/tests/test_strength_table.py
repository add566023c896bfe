"""Strengths in arrays against their definition, span by span."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strength_by_span import StrengthCurve, blend, weights_from_strengths

from otcache_core import Policy, Provenance, Schedule
from otcache_core.forecasters.strength import (
    StrengthTable,
    linear_table,
    linear_weights,
    resampled_weights,
)
from otcache_core.transport import round_to_steps

N = 14
GRIDS = [np.linspace(1.0, 0.0, N + 1) ** 1.4, np.array([4096.0, *np.linspace(3.0, 0.0, N) ** 1.2])]
GRIDS.append(np.concatenate([np.linspace(1.0, 0.4, 6), [0.4] * 4, np.linspace(0.3, 0.0, N - 9)]))

steps = st.sets(st.integers(1, N - 1), max_size=9).map(lambda s: (0, *sorted(s)))
weight = st.floats(-3.0, 3.0)


@st.composite
def fitted(draw: st.DrawFn) -> Schedule:
    """Weights of memory 1 to 3 where a step is skipped; sometimes none; branches as long."""
    plain = Schedule(N, draw(steps))
    kind = draw(st.sampled_from(["fitted", "fitted", "fitted", "reuse", "linear"]))
    if kind != "fitted":
        return Schedule(N, plain.computed, kind)
    memory = draw(st.integers(1, 3))

    def rows() -> list[tuple[float, ...]]:
        lengths = [min(memory, 1 + len(span.history)) for span in plain.spans()]
        return [tuple(draw(weight) for _ in range(length)) for length in lengths]

    return plain.with_weights(rows(), {"cond": rows(), "uncond": rows()})


@given(steps, st.sampled_from(GRIDS), st.integers(1, 4))
def test_linear_weights_of_all_spans(computed: tuple[int, ...], grid: np.ndarray, m: int) -> None:
    table = linear_table(computed, grid, m)
    for row, span in zip(table, Schedule(N, computed).spans(), strict=True):
        wanted = linear_weights(span, grid, m)
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-9, atol=1e-12)
        assert not row[len(wanted) :].any()


@given(fitted(), st.sampled_from(GRIDS), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_every_branch_is_read_as_its_curve(
    schedule: Schedule, grid: np.ndarray, u: list[float]
) -> None:
    branches = (None, "cond", "uncond")
    table = StrengthTable.of(schedule, grid, branches)
    curves = [StrengthCurve.of(schedule, grid, name) for name in branches]
    assert table.memory == curves[0].memory
    for length in (1, 2, 3):
        got = table.at(np.array(u), length)
        for rows, curve in zip(got, curves, strict=True):
            wanted = [curve(place, length) for place in u]
            np.testing.assert_allclose(rows, wanted, rtol=1e-7, atol=1e-9)


@given(steps, fitted(), fitted(), st.floats(0.0, 1.0))
def test_weights_between_two_schedules(
    computed: tuple[int, ...], low: Schedule, high: Schedule, lam: float
) -> None:
    grid, branches = GRIDS[0], (None, "cond", "uncond")
    ends = [StrengthTable.of(s, grid, branches) for s in (low, high)]
    got = resampled_weights(computed, grid, (ends[0], ends[1]), lam)
    for rows, name in zip(got, branches, strict=True):
        curves = [StrengthCurve.of(s, grid, name) for s in (low, high)]
        memory = max(curve.memory for curve in curves)
        wanted = weights_from_strengths(Schedule(N, computed), blend(*curves, lam), grid, memory)
        assert [len(row) for row in rows] == [len(row) for row in wanted]
        for row, expected in zip(rows, wanted, strict=True):
            np.testing.assert_allclose(row, expected, rtol=1e-7, atol=1e-9)


def test_a_branch_with_shorter_rows_is_padded() -> None:
    plain = Schedule(N, (0, 2, 5, 9))
    rows = [(0.1,), (0.1, 0.2), (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)]
    mixed = plain.with_weights([(0.5,)] * 4, {"cond": rows})
    table = StrengthTable.of(mixed, GRIDS[0], (None, "cond"))
    assert table.at(np.array([0.6]), 3)[0].tolist() == [[0.5, 0.0, 0.0]]
    curve = StrengthCurve.of(mixed, GRIDS[0], "cond")
    np.testing.assert_allclose(table.at(np.array([0.6]), 3)[1, 0], curve(0.6, 3))


def _policy(n: int) -> Policy:
    """Return a ladder of fitted schedules that crowd at the end, three weights a span and two branches."""

    def rung(budget: int) -> Schedule:
        place = np.arange(budget) / budget
        computed = round_to_steps(1 - (1 - place) ** 1.5, n)
        rows = [(0.1, 0.3, -0.05)[: m + 1] for m in range(budget)]
        return Schedule(n, computed).with_weights(rows, {"cond": rows, "uncond": rows})

    ladder = tuple(rung(round(n * share)) for share in (0.1, 0.17, 0.27, 0.5))
    grid = tuple(np.linspace(1.0, 0.0, n + 1).tolist())
    return Policy(ladder[0], ladder[-1], Provenance(num_steps=n, grid=grid), ladder)


def _calls(work: Callable[[], object]) -> int:
    """Return function calls of Python and C that a piece of work makes."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


def test_a_cold_schedule_takes_few_calls_at_any_budget_of_50() -> None:
    """The promise is a millisecond, which ``nox -s bench -- planning`` measures on a quiet machine.

    Clocks of shared ones differ fivefold, so what is exact here is the number of calls; the clock's own
    limit is five times the promise, for a call that takes long.
    """
    policy = _policy(50)
    for budget in range(2, 51, 3):
        times = []
        for _ in range(7):
            policy = msgspec.structs.replace(policy)  # nothing is cached
            began = time.perf_counter()
            policy.schedule(budget)
            times.append(time.perf_counter() - began)
        assert min(times) < 5e-3
        cold = msgspec.structs.replace(policy)
        assert _calls(lambda b=budget, p=cold: p.schedule(b)) < 1500


@pytest.mark.parametrize("budget", [200, 700])
def test_a_long_run_needs_no_table_of_steps_by_steps(budget: int) -> None:
    policy = _policy(1000)
    tracemalloc.start()
    try:
        assert policy.schedule(budget).budget == budget
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
