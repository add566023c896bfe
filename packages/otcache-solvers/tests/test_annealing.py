"""SimulatedAnnealing and refining on pipelines small enough to try every schedule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem
from otcache_core.contracts import Evaluation, Evaluator
from otcache_core.testing import ToySampler
from otcache_core.transport import levels, round_to_steps
from otcache_solvers.search.refine import Refine
from otcache_solvers.search.simulated_annealing import SimulatedAnnealing
from otcache_solvers.search.trial_book import mean_error

SAMPLER = ToySampler(num_steps=8, num_samples=3, power=2.0)
SEARCHES = (
    SimulatedAnnealing(iterations=30),
    SimulatedAnnealing(iterations=10, fit=True),
    Refine(),
    Refine(fit=False),
)


class Counted(Evaluator):
    """Errors from a rule of (steps, sample); keeps what was run, and at what cost."""

    def __init__(self, rule, num_steps=8, num_samples=2):
        self.rule, self.num_steps, self.samples = rule, num_steps, num_samples
        self.runs, self.nfe = [], 0

    grid = property(lambda self: np.linspace(1.0, 0.0, self.num_steps + 1))
    num_samples = property(lambda self: self.samples)
    objectives = ("latent-rmse", "latent-l1")

    def evaluate(self, schedules, *, objective=None, samples=None, fit=False):
        chosen = range(self.samples) if samples is None else samples
        self.runs += [(s, fit) for s in schedules]
        errors = np.array([[self.rule(s.computed, i) for i in chosen] for s in schedules])
        nfe = len(chosen) * sum(s.budget for s in schedules)
        self.nfe += nfe
        grams = np.zeros((len(chosen), len(errors), len(errors)))
        return Evaluation(tuple(schedules), errors, nfe, grams)


def schedules(num_steps, budget):
    return [
        Schedule(num_steps=num_steps, computed=(0, *rest))
        for rest in itertools.combinations(range(1, num_steps), budget - 1)
    ]


def solve(solver, evaluator, budget=3, seed=0, reference=None):
    n = len(evaluator.grid) - 1
    problem = ScheduleProblem(n, budget, evaluator=evaluator, seed=seed, reference=reference)
    return solver.solve(problem)


def rugged(seed):
    """Return an error without any structure."""
    table = np.random.default_rng(seed).random((2**8, 2)) + 0.01
    return lambda steps, sample: float(table[sum(2**k for k in steps), sample])


def far_from(target):
    return lambda steps, sample: 0.1 + float(np.abs(np.subtract(steps, target)).sum())


steps_of = st.integers(2, 7).flatmap(
    lambda b: st.sets(st.integers(1, 7), min_size=b - 1, max_size=b - 1).map(
        lambda rest: (0, *sorted(rest))
    )
)


@pytest.mark.parametrize("budget", [2, 3, 5])
def test_annealing_with_enough_moves_finds_the_best_of_all_schedules(budget):
    evaluator = SAMPLER.evaluator()
    every = evaluator.evaluate(schedules(8, budget)).errors
    solution = solve(SimulatedAnnealing(), evaluator, budget)
    assert solution.objective == pytest.approx((every**2).mean(axis=1).min())
    assert solution.result is Result.FOUND


@pytest.mark.parametrize("relative", [False, True])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_hot_annealing_finds_the_best_of_a_rugged_error_that_stops_a_climb(relative, seed):
    rule = rugged(seed)
    best = min(np.mean([rule(s.computed, i) ** 2 for i in (0, 1)]) for s in schedules(8, 3))
    hot = SimulatedAnnealing(iterations=600, temperature=(1e6, 1e6), relative=relative)
    assert solve(hot, Counted(rule), seed=seed).objective == pytest.approx(best)


@given(target=steps_of)
@settings(max_examples=20, deadline=None)
def test_an_error_with_one_valley_is_followed_to_its_bottom(target):
    for solver in (Refine(), SimulatedAnnealing(iterations=0)):
        solution = solve(solver, Counted(far_from(target)), budget=len(target))
        assert solution.schedule.computed == target
        assert solution.result is Result.FOUND


def test_refine_tries_every_place_of_the_one_step_it_may_move():
    evaluator = SAMPLER.evaluator()
    for fit in (False, True):
        ran = evaluator.evaluate(schedules(8, 2), fit=fit)
        solution = solve(Refine(fit=fit), evaluator, budget=2)
        assert solution.objective == pytest.approx(min(mean_error(ran.errors, robust=True)))
        assert solution.stats["trials"] == 7


@pytest.mark.parametrize("solver", SEARCHES, ids=repr)
@given(seed=st.integers(0, 10_000), steps=steps_of)
@settings(max_examples=8, deadline=None)
def test_the_result_is_never_worse_than_the_start_as_it_is(solver, seed, steps):
    evaluator = ToySampler(num_steps=8, num_samples=2, seed=seed).evaluator()
    start = Schedule(num_steps=8, computed=steps, forecaster="linear")
    if isinstance(solver, SimulatedAnnealing):
        start = Schedule(num_steps=8, computed=round_to_steps(levels(len(steps)), 8))
    fit = solver.fit and start == start.without_weights()
    errors = evaluator.evaluate([start], fit=fit).errors[0]
    mean = (
        (errors**2).mean()
        if isinstance(solver, SimulatedAnnealing)
        else min(mean_error(errors[None], True))
    )
    solution = solve(solver, evaluator, start.budget, seed, start)
    assert solution.stats["start"] == pytest.approx(float(mean))
    assert solution.objective <= solution.stats["start"]
    again = evaluator.evaluate([solution.schedule]).errors[0]
    value = (
        (again**2).mean()
        if isinstance(solver, SimulatedAnnealing)
        else min(mean_error(again[None], True))
    )
    assert solution.objective == pytest.approx(float(value))


@given(
    search=st.sampled_from([SimulatedAnnealing, Refine]),
    trials=st.none() | st.integers(1, 30),
    runs=st.none() | st.integers(1, 30),
    fit=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_no_allowance_is_exceeded_and_no_schedule_runs_twice(search, trials, runs, fit, seed):
    evaluator = Counted(rugged(seed))
    nfe = None if runs is None else runs * 3 * 2 + seed % 6
    solution = solve(search(fit=fit, max_trials=trials, max_nfe=nfe), evaluator, seed=seed)
    assert solution.nfe == evaluator.nfe
    assert solution.stats["trials"] == len(evaluator.runs) == len(set(evaluator.runs))
    assert trials is None or solution.stats["trials"] <= trials
    assert nfe is None or evaluator.nfe <= nfe
    if solution.result is Result.BUDGET_SPENT:
        left = (trials or 99) - solution.stats["trials"], (nfe or 999) - evaluator.nfe
        assert left[0] == 0 or left[1] < 6


@pytest.mark.parametrize("solver", SEARCHES, ids=repr)
def test_the_same_seed_gives_the_same_search_and_another_one_another(solver):
    ran = []
    for seed in (3, 3, 4):
        evaluator = Counted(rugged(1))
        solve(solver, evaluator, budget=4, seed=seed)
        ran.append(evaluator.runs)
    assert ran[0] == ran[1] != ran[2]


@pytest.mark.parametrize("solver", SEARCHES, ids=repr)
@pytest.mark.parametrize("budget", [1, 8])
def test_where_there_is_one_schedule_it_runs_once(solver, budget):
    solution = solve(solver, SAMPLER.evaluator(), budget)
    assert (solution.stats["trials"], solution.result) == (1, Result.FOUND)


def test_a_temperature_is_absolute_unless_it_is_relative():
    """The same search at a hundred times the error: only the relative one does not notice."""
    rule = rugged(5)
    taken = {}
    for relative in (False, True):
        for scale in (1.0, 100.0):
            evaluator = Counted(lambda steps, sample, scale=scale: scale * rule(steps, sample))
            solution = solve(
                SimulatedAnnealing(relative=relative, temperature=(1.0, 0.1)), evaluator, budget=4
            )
            taken[relative, scale] = solution.stats["taken"]
    assert taken[True, 1.0] == taken[True, 100.0]
    assert taken[False, 1.0] > taken[False, 100.0]


def test_a_cold_annealing_never_climbs_a_hill():
    values = []

    def rule(steps, sample):
        values.append(far_from((0, 5, 7))(steps, sample))
        return values[-1]

    solution = solve(SimulatedAnnealing(temperature=(1e-9, 1e-9)), Counted(rule))
    assert solution.schedule.computed == (0, 5, 7)
    assert solution.stats["before_climb"] == pytest.approx(0.01)


def test_annealing_squares_only_the_default_objective():
    uniform = ScheduleProblem(8, 8, evaluator=Counted(lambda steps, sample: 2.0 + sample))
    assert SimulatedAnnealing().solve(uniform).objective == pytest.approx((4 + 9) / 2)
    assert SimulatedAnnealing(objective="latent-l1").solve(uniform).objective == pytest.approx(2.5)


def test_one_bad_sample_does_not_steer_a_refinement():
    def rule(steps, sample):
        better = steps[1] == 5
        return (0.1 if better else 1.0) if sample < 2 else (4.0 if better else 1.0)

    start = Schedule(num_steps=8, computed=(0, 4))
    solution = solve(Refine(), Counted(rule, num_samples=3), budget=2, reference=start)
    assert solution.schedule.computed == (0, 5)
    assert solution.stats["accepted"]


def test_weights_that_no_move_and_no_fit_beats_are_kept():
    evaluator = SAMPLER.evaluator()
    [start] = evaluator.evaluate(
        [Schedule(num_steps=8, computed=(0, 1, 3, 5, 7))], fit=True
    ).schedules
    best = solve(Refine(), evaluator, budget=5, reference=start)
    kept = solve(Refine(max_trials=1), evaluator, budget=5, reference=start)
    assert kept.schedule == start
    assert not kept.stats["accepted"]
    assert best.objective <= kept.objective


def test_a_reference_of_another_budget_gives_its_warp():
    evaluator = Counted(rugged(0))
    reference = Schedule(num_steps=8, computed=(0, 1, 2, 3))
    solve(Refine(max_trials=1), evaluator, budget=2, reference=reference)
    assert evaluator.runs[0][0].computed == (0, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimulatedAnnealing(iterations=-1), "iterations must be at least 0, got -1"),
        (lambda: SimulatedAnnealing(temperature=(1e-5, 0.05)), "hot >= cold > 0"),
        (lambda: SimulatedAnnealing(temperature=(1.0, float("nan"))), "hot >= cold > 0"),
        (
            lambda: SimulatedAnnealing(max_trials=0),
            "SimulatedAnnealing.max_trials must be at least 1, or None",
        ),
        (
            lambda: Refine(max_nfe=0),
            "Refine.max_nfe must be at least 1, or None for no limit, got 0",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(OtcacheError, match=message):
        make()


@pytest.mark.parametrize("search", [SimulatedAnnealing, Refine])
def test_what_does_not_fit_the_problem_is_refused(search):
    with pytest.raises(OtcacheError, match="max_nfe must be at least 9, got 8: 3 samples times 3"):
        solve(search(max_nfe=8), SAMPLER.evaluator())
    with pytest.raises(OtcacheError, match="one of latent-rmse, latent-l1, got 'lpips'"):
        solve(search(objective="lpips"), SAMPLER.evaluator())
    with pytest.raises(OtcacheError, match="ended in NaN or infinity: try float32"):
        solve(search(max_trials=3), Counted(lambda steps, sample: np.nan))
