"""What the anchor search varies: every point is a schedule, every schedule has a point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.forecasters.strength import StrengthCurve, strengths
from otcache_core.testing import ToySampler
from otcache_solvers.search.anchor import SPACES, AnchorSearch
from otcache_solvers.search.search_space import GapSpace, IntegerSpace, WarpSpace
from otcache_solvers.search.strength_space import StrengthSpace
from otcache_solvers.search.trial_book import TrialBook, mean_error

SAMPLER = ToySampler(num_steps=10, num_samples=8, power=2.0)
GRID = tuple(SAMPLER.grid.tolist())


@st.composite
def schedules(draw, num_steps=None):
    n = num_steps or draw(st.integers(1, 20))
    budget = draw(st.integers(1, n))
    rest = draw(st.permutations(range(1, n)))[: budget - 1]
    return Schedule(num_steps=n, computed=(0, *sorted(rest)))


@given(data=st.data(), schedule=schedules(), space=st.sampled_from(sorted(SPACES)))
@settings(deadline=None)
def test_every_point_is_a_schedule_of_the_budget(data, schedule, space):
    searched = SPACES[space](schedule.num_steps, schedule.budget)
    point = {
        name: data.draw(st.integers(low, high) if isinstance(low, int) else st.floats(low, high))
        for name, (low, high) in searched.limits.items()
    }
    made = searched.schedule(point)
    assert (made.num_steps, made.budget) == (schedule.num_steps, schedule.budget)
    near = searched.nearest(schedule)
    assert list(near) == list(searched.limits)
    assert all(
        searched.limits[name][0] <= x <= searched.limits[name][1] for name, x in near.items()
    )


@given(schedule=schedules(), space=st.sampled_from([GapSpace, IntegerSpace]))
def test_gaps_and_integers_reach_every_schedule(schedule, space):
    searched = space(schedule.num_steps, schedule.budget)
    assert searched.schedule(searched.nearest(schedule)) == schedule


def test_uniform_fractions_prefer_no_place_of_the_run():
    """Every gap has the same mean, (N / B), where naive stick-breaking halves it each time."""
    space, rng = GapSpace(40, 4), np.random.default_rng(0)
    gaps = [
        np.diff(
            [
                *space.schedule(
                    dict.fromkeys(space.limits, 0) | dict(zip(space.limits, v, strict=True))
                ).computed,
                40,
            ]
        )
        for v in rng.random((4000, 3))
    ]
    np.testing.assert_allclose(np.mean(gaps, axis=0), 10.0, atol=0.5)


def test_integers_may_come_in_any_order_and_equal():
    space = IntegerSpace(10, 4)
    assert space.schedule({"k2": 7, "k3": 2, "k4": 4}).computed == (0, 2, 4, 7)
    assert space.schedule({"k2": 5, "k3": 5, "k4": 5}).computed == (0, 4, 5, 6)


@given(schedule=schedules(10), factor=st.floats(0.0, 1.5))
@settings(deadline=None)
def test_strength_scales_the_linear_forecast(schedule, factor):
    linear = Schedule(num_steps=10, computed=schedule.computed, forecaster="linear")
    space = StrengthSpace(
        IntegerSpace(10, schedule.budget), StrengthCurve.of(linear, SAMPLER.grid), GRID
    )
    point = {**space.nearest(schedule), "strength": factor}
    made = space.schedule(point)
    assert made.computed == schedule.computed
    for row in strengths(made, SAMPLER.grid):
        assert all(theta is None or theta == pytest.approx(factor) for theta in row[1:])
    ends = SAMPLER.evaluator().evaluate([linear, space.schedule(space.nearest(schedule))]).errors
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-9)


def test_a_moved_schedule_keeps_the_strengths_of_its_start():
    [start] = (
        SAMPLER.evaluator()
        .evaluate([Schedule(num_steps=10, computed=(0, 3, 6))], fit=True)
        .schedules
    )
    space = StrengthSpace(WarpSpace(10, 3), StrengthCurve.of(start, SAMPLER.grid), GRID)
    moved = space.carried(start, Schedule(num_steps=10, computed=(0, 2, 6)))
    for before, after in zip(
        strengths(start, SAMPLER.grid), strengths(moved, SAMPLER.grid), strict=True
    ):
        assert after == pytest.approx(before)
    assert space.carried(start.without_weights(), moved) is moved


def solve(solver, budget=3, reference=None, seed=0):
    problem = ScheduleProblem(
        10, budget, evaluator=SAMPLER.evaluator(), reference=reference, seed=seed
    )
    return solver.solve(problem)


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("budget", [1, 2, 5, 10])
def test_every_space_is_searched_the_same_way_twice(space, budget):
    solver = AnchorSearch(max_trials=8, climb_trials=4, space=space)
    first, second = (solve(solver, budget) for _ in range(2))
    assert (first.schedule, first.objective) == (second.schedule, second.objective)
    assert first.schedule.budget == budget


@pytest.mark.parametrize("space", ["gaps", "integers"])
def test_with_enough_trials_the_free_spaces_find_the_best_of_all(space):
    every = [
        Schedule(num_steps=10, computed=(0, *rest))
        for rest in itertools.combinations(range(1, 10), 2)
    ]
    best = mean_error(SAMPLER.evaluator().evaluate(every, fit=True).errors, robust=True).min()
    solution = solve(AnchorSearch(max_trials=36, climb_trials=36, split=0.0, space=space))
    assert solution.objective == pytest.approx(best)


def test_a_searched_strength_beats_reuse_and_plain_extrapolation():
    solver = AnchorSearch(max_trials=40, climb_trials=20, split=0.0, fit=False, strength=True)
    solution = solve(solver, budget=4)
    assert solution.schedule.forecaster == "fitted"
    reuse = solve(AnchorSearch(max_trials=40, climb_trials=20, split=0.0, fit=False), budget=4)
    assert solution.objective < reuse.objective
    plain = Schedule(num_steps=10, computed=solution.schedule.computed, forecaster="linear")
    errors = SAMPLER.evaluator().evaluate([plain]).errors
    assert solution.objective <= mean_error(errors, robust=True)[0]


def test_the_strengths_of_a_reference_are_what_is_scaled():
    ladder = Schedule(num_steps=10, computed=(0, 1, 3, 5, 7))
    [reference] = SAMPLER.evaluator().evaluate([ladder], fit=True).schedules
    solver = AnchorSearch(max_trials=20, climb_trials=0, fit=False, strength=True, split=0.0)
    assert solve(solver, budget=4, reference=reference).schedule.memory == reference.memory


@pytest.mark.parametrize("fit", [False, True])
def test_pruning_gives_up_the_bad_half_early_and_is_counted(fit):
    settings = {"max_trials": 30, "climb_trials": 0, "split": 0.0, "space": "gaps", "fit": fit}
    full, pruned = (solve(AnchorSearch(**settings, prune=prune)) for prune in (False, True))
    assert "pruned" not in full.stats
    assert 0 < pruned.stats["pruned"] < pruned.stats["trials"] <= 30
    assert pruned.nfe < full.nfe


@given(counts=st.integers(1, 9), stop=st.integers(0, 3), fit=st.booleans())
@settings(deadline=None)
def test_a_race_runs_each_sample_once_and_equals_one_run(counts, stop, fit):
    evaluator = ToySampler(num_steps=6, num_samples=counts).evaluator()
    book, plain = (TrialBook(evaluator, tuple(range(counts)), None, fit, True) for _ in range(2))
    schedule = Schedule(num_steps=6, computed=(0, 2, 4))
    seen = []

    def goes_on(samples, value):
        seen.append((samples, value))
        return len(seen) <= stop

    book.race(schedule, goes_on)
    assert [n for n, _ in seen] == sorted({n for n, _ in seen})
    if book.knows(schedule):
        assert book[schedule].value == pytest.approx(plain.price([schedule])[0])
        assert fit or book.nfe == plain.nfe
    else:
        assert book.given_up
        book.race(schedule, goes_on)
        assert seen[-1] == seen[-2]
    assert book.tried == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "steps"}, "space must be one of warp, gaps, integers, got 'steps'"),
        ({"space": "gaps", "bump": True}, "bump must be left out here, got True: only a warp"),
        ({"strength": True}, "strength must be left out here, got True: a fit replaces"),
        ({"study": "mine"}, "study must be left out here, got 'mine': it names a study"),
    ],
)
def test_settings_that_exclude_one_another_are_refused(settings, message):
    with pytest.raises(OtcacheError, match=message):
        AnchorSearch(**settings)
