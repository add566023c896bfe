"""Speed is measured in pairs or not printed: tests on a machine whose speed is made up."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache.comparison.timing import (
    ABOVE,
    APART,
    DISAGREE,
    FEW,
    ROUNDS,
    STOPPED,
    SURE,
    Pair,
    Timed,
    interval,
    middle,
    speed,
    take_turns,
)
from otcache.report.results import Cell

N = 30


class Machine:
    """Runs at a speed that depends on the work done so far; a slowdown of 1 is a quiet machine."""

    def __init__(self, slowdown: Callable[[float], float] = lambda done: 1.0) -> None:
        self.slowdown, self.done = slowdown, 0.0

    def runs_of(self, steps: float) -> Timed:
        """Return a run of so many steps, a second each on a quiet machine."""

        def run(number: int) -> float:
            taken = steps * self.slowdown(self.done + steps / 2)
            self.done += steps
            return taken

        return run


def timed(machine: Machine, budgets: Sequence[int] = (10,)) -> dict[int, tuple[Pair, ...]]:
    methods = {budget: machine.runs_of(budget) for budget in budgets}
    return take_turns(machine.runs_of(N), methods, {b: N / b for b in budgets})


# --- properties ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, N), min_size=1, max_size=7, unique=True), st.floats(1e-6, 1e6))
def test_exact_times_give_the_exact_ratio(budgets: list[int], factor: float) -> None:
    for budget, pairs in timed(Machine(lambda done: factor), budgets).items():
        found = speed(pairs, N / budget)
        assert found.speedup is not None
        assert found.speedup.median == pytest.approx(N / budget)
        assert found.speedup.half == pytest.approx(0, abs=1e-9)
        assert found.seconds is not None
        assert found.seconds.median == pytest.approx(budget * factor)
        assert len(pairs) == ROUNDS


@given(
    st.lists(st.integers(1, N), min_size=1, max_size=7, unique=True),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=8),
    st.booleans(),
)
def test_a_machine_that_only_slows_down_or_speeds_up_moves_no_ratio_beyond_its_interval(
    budgets: list[int], steps: list[float], rises: bool
) -> None:
    levels = [1.0, *(1 + total for total in accumulate(steps))][:: 1 if rises else -1]
    machine = Machine(lambda done: levels[min(len(levels) - 1, int(done // 40))])
    for budget, pairs in timed(machine, budgets).items():
        ratios = [pair.full / pair.own for pair in pairs]
        low, high = interval(ratios)
        assert low <= N / budget * (1 + 1e-12)
        assert high >= N / budget * (1 - 1e-12)


@given(st.floats(0.5, 2.0), st.integers(0, 2 * ROUNDS - 1), st.floats(1, 1e3), st.booleans())
def test_one_spike_is_contained(overhead: float, at: int, spike: float, on_full: bool) -> None:
    quiet = Pair(N + overhead, 10 + overhead)
    hit = Pair(quiet.full * spike, quiet.own) if on_full else Pair(quiet.full, quiet.own * spike)
    truth = quiet.full / quiet.own
    pairs = [hit if i == at else quiet for i in range(2 * ROUNDS)]
    found = speed(pairs, N / 10)
    assert found.speedup is not None
    assert found.speedup.median == pytest.approx(truth)
    assert found.speedup.half == pytest.approx(0)
    few = speed(pairs[:ROUNDS], N / 10)  # either the median of the quiet pairs, or none
    assert few.speedup is None or few.speedup.median == pytest.approx(truth)


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=ROUNDS, max_size=9),
    st.floats(1, 50),
)
def test_no_figure_is_above_the_ideal_beyond_its_spread(
    times: list[tuple[float, float]], ideal: float
) -> None:
    pairs = [Pair(*each) for each in times]
    found = speed(pairs, ideal)
    if found.speedup is not None:
        assert found.speedup.median - found.speedup.half <= ideal * (1 + 1e-9)
        assert found.seconds is not None
        assert not found.withheld
        # Whatever is not withheld is a cell, and what a cell refuses is withheld.
        Cell("m", 5, N / ideal, ideal, schedule=None, metrics={}, **found.facts())
    else:
        assert found.withheld in (ABOVE, DISAGREE)
        assert set(found.facts().values()) == {None, found.withheld}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_interval_is_one_of_the_values_and_holds_their_median(
    values: list[float], chance: random.Random
) -> None:
    found = middle(values)
    assert found.median == statistics.median(values)
    assert 0 <= found.half <= (max(values) - min(values)) / 2
    assert middle(chance.sample(values, len(values))) == found


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    # By counting: each of n values is below the median of its distribution, or above, like a coin.
    for n in range(ROUNDS, 12):
        k = int(interval(range(n))[0])  # values omitted at either end
        held = sum(math.comb(n, below) for below in range(k + 1, n - k)) / 2**n
        assert held >= SURE
        more = sum(math.comb(n, below) for below in range(k + 2, n - k - 1)) / 2**n
        assert more < SURE


# --- the case --------------------------------------------------------------------------------------


def busy(done: float) -> float:
    """Return the load of an hour of other work, which ends while methods are timed: eight to one."""
    return 8.5 if done < 500 else 1.0


def test_the_machine_that_showed_fifty_times() -> None:
    # The full run was timed while the machine was busy, the methods an hour later: 30 / 5 = 6 is ideal.
    machine = Machine(busy)
    once = machine.runs_of(N)(0)
    machine.done = 600.0
    assert once / machine.runs_of(5)(0) == pytest.approx(51)
    pairs = timed(Machine(busy), (5, 15))  # in turns, wholly within it
    for budget, found in ((b, speed(p, N / b)) for b, p in pairs.items()):
        assert found.speedup is not None
        assert found.speedup.median == pytest.approx(N / budget)
    crossing = Machine(busy)
    crossing.done = 480.0  # the work ends within the first full run, and all the rest is quiet
    pairs = timed(crossing, (5, 15))
    for budget in (5, 15):
        found = speed(pairs[budget], N / budget)
        assert found.speedup is not None
        assert found.speedup.median == pytest.approx(N / budget)


def test_the_reasons() -> None:
    def pairs(*ratios: float) -> list[Pair]:
        return [Pair(ratio, 1.0) for ratio in ratios]

    assert speed([], 6).facts() == speed([], 6).facts() | {"measured_speedup": None, "withheld": ""}
    assert speed(pairs(50.95, 49.0, 52.1), 6).withheld == ABOVE
    assert speed(pairs(5.9, 9.0, 11.0), 6).withheld == ABOVE  # 9 ± 2.55
    assert speed(pairs(6.1, 6.2, 30.0), 6).withheld == ABOVE  # every pair is
    assert speed(pairs(2.0, 5.0, 5.9), 6).withheld == DISAGREE
    assert speed(pairs(5.9, 6.1, 6.3), 6).speedup == (6.1, pytest.approx(0.2))
    assert speed(pairs(4.0, 4.0 * APART), 6).withheld == FEW
    for bad in (0.0, -1.0, math.nan, math.inf):
        assert speed([*pairs(5.0, 5.1), Pair(bad, 1.0)], 6).withheld == STOPPED


# --- turns -----------------------------------------------------------------------------------------


def test_full_runs_and_methods_take_turns_and_either_comes_first() -> None:
    log: list[tuple[str, int]] = []

    def noted(name: str, seconds: float) -> Timed:
        def run(number: int) -> float:
            log.append((name, number))
            return seconds

        return run

    take_turns(noted("full", 6), {"a": noted("a", 1), "b": noted("b", 1)}, {"a": 6, "b": 6})
    assert log == [
        *(("full", 0), ("a", 0), ("b", 0)),
        *(("b", 1), ("a", 1), ("full", 1)),
        *(("full", 2), ("a", 2), ("b", 2)),
    ]


@pytest.mark.parametrize(("steady", "rounds"), [(True, ROUNDS), (False, 2 * ROUNDS)])
def test_what_would_be_withheld_is_timed_again_once(steady: bool, rounds: int) -> None:
    times = iter([1.0, 1.2, 1.0] if steady else [1.0, 10.0, 1.0, 1.0, 1.0, 1.0])
    methods = {"a": lambda _: next(times), "steady": lambda _: 1.0}
    pairs = take_turns(lambda _: 6.0, methods, dict.fromkeys(methods, 6.0))
    assert (len(pairs["a"]), len(pairs["steady"])) == (rounds, ROUNDS)
    assert not speed(pairs["a"], 6.0).withheld
