"""The anchor search on pipelines small enough to try every schedule."""

from __future__ import annotations

import itertools
import logging
import threading

import numpy as np
import optuna
import pytest

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem
from otcache_core.contracts import Evaluation, Evaluator
from otcache_core.testing import ToyEvaluator, ToySampler
from otcache_solvers.search.anchor import AnchorSearch
from otcache_solvers.search.refine import climb, moved
from otcache_solvers.search.tpe_search import quiet
from otcache_solvers.search.trial_book import TrialBook, mean_error

SAMPLER = ToySampler(num_steps=14, num_samples=4, power=2.0)
FEW = ToySampler(num_steps=10, num_samples=3, power=2.0)  # none of three is kept out


class Counting(Evaluator):
    """Errors from a rule; keeps what was run on which samples."""

    def __init__(self, rule, num_steps=14, num_samples=4):
        self.rule, self.num_steps, self.samples = rule, num_steps, num_samples
        self.runs = []

    grid = property(lambda self: np.linspace(1.0, 0.0, self.num_steps + 1))
    num_samples = property(lambda self: self.samples)
    objectives = ("latent-rmse",)

    def evaluate(self, schedules, *, objective=None, samples=None, fit=False):
        chosen = range(self.samples) if samples is None else samples
        self.runs += [(s.computed, tuple(chosen), fit) for s in schedules]
        errors = np.array([[self.rule(s.computed, i) for i in chosen] for s in schedules])
        nfe = len(chosen) * sum(s.budget for s in schedules)
        return Evaluation(
            tuple(schedules), errors, nfe, np.zeros((errors.shape[1], len(errors), len(errors)))
        )


def far_from(target):
    return lambda steps, sample: 0.1 + float(np.abs(np.subtract(steps, target)).sum())


def solve(solver, evaluator, budget=4, seed=0, **more):
    n = len(evaluator.grid) - 1
    return solver.solve(ScheduleProblem(n, budget, evaluator=evaluator, seed=seed, **more))


def test_with_room_to_climb_it_finds_the_best_of_all_schedules():
    evaluator = FEW.evaluator()
    every = [
        Schedule(num_steps=10, computed=(0, *rest))
        for rest in itertools.combinations(range(1, 10), 3)
    ]
    best = min(mean_error(evaluator.evaluate(every, fit=True).errors, robust=True))
    solution = solve(AnchorSearch(max_trials=30, climb_trials=200), evaluator)
    assert solution.result is Result.FOUND
    assert solution.objective <= 1.1 * best
    assert solution.stats["trials"] < len(every)


def test_a_convex_error_is_climbed_to_its_bottom():
    evaluator = Counting(far_from((0, 1, 3, 12)))
    solution = solve(AnchorSearch(max_trials=5, climb_trials=100), evaluator)
    assert solution.schedule.computed == (0, 1, 3, 12)
    assert solution.objective == pytest.approx(0.1)


def test_no_schedule_runs_twice_and_everything_is_counted():
    evaluator = Counting(far_from((0, 2, 5, 9)))
    solution = solve(AnchorSearch(max_trials=15, climb_trials=9), evaluator)
    searched = [steps for steps, samples, fit in evaluator.runs if fit]
    assert len(searched) == len(set(searched)) == solution.stats["trials"] <= 24
    assert solution.nfe == sum(4 * len(samples) for _, samples, _ in evaluator.runs)
    assert {samples for _, samples, fit in evaluator.runs if fit} == {(0, 1, 2)}
    assert {samples for _, samples, fit in evaluator.runs if not fit} <= {(3,)}


def test_it_stops_when_its_trials_are_spent():
    solution = solve(AnchorSearch(max_trials=3, climb_trials=0), SAMPLER.evaluator())
    assert solution.stats["trials"] == 3
    assert solution.result is Result.BUDGET_SPENT


@pytest.mark.parametrize("budget", [1, 14])
def test_where_there_is_one_schedule_it_runs_once(budget):
    solution = solve(AnchorSearch(), SAMPLER.evaluator(), budget=budget)
    assert solution.stats["trials"] == 1
    assert solution.result is Result.FOUND


def test_the_same_seed_gives_the_same_search_and_another_one_another():
    runs = []
    for seed in (3, 3, 4):
        evaluator = Counting(far_from((0, 2, 7, 11)))
        solve(AnchorSearch(max_trials=20, climb_trials=6), evaluator, seed=seed)
        runs.append(evaluator.runs)
    assert runs[0] == runs[1] != runs[2]


def test_warm_starts_are_run_as_they_are_and_reported():
    odd = Schedule(num_steps=14, computed=(0, 1, 12, 13))
    reference = Schedule(num_steps=14, computed=(0, 1, 2, 3, 4, 9))
    evaluator = Counting(far_from(odd.computed))
    solver = AnchorSearch(max_trials=6, climb_trials=6, warm=[odd, odd])
    solution = solve(solver, evaluator, reference=reference)
    assert set(solution.stats["warm"]) == {"uniform", "reference warp", "warm 0"}
    assert solution.stats["warm"]["warm 0"] == pytest.approx(0.1)
    assert [steps for steps, _, _ in evaluator.runs][:3] == [
        (0, 3, 7, 10),
        (0, 1, 3, 6),
        odd.computed,
    ]
    assert solution.schedule == odd
    assert not solution.stats["accepted"]


def test_a_winner_that_loses_on_the_samples_kept_out_is_not_taken():
    uniform = (0, 3, 7, 10)

    def overfits(steps, sample):
        gap = float(np.abs(np.subtract(steps, uniform)).sum())
        return 1.0 + gap if sample == 3 else 1.0 / (1.0 + gap)

    kept = solve(AnchorSearch(max_trials=10), Counting(overfits))
    assert kept.schedule.computed == uniform
    assert kept.objective == pytest.approx(1.0)
    assert not kept.stats["accepted"]
    assert kept.stats["kept_out"]["found"] > kept.stats["kept_out"]["warm"]
    trusting = solve(AnchorSearch(max_trials=10), Counting(overfits, num_samples=3))
    assert trusting.objective < 1.0


def test_the_solution_carries_the_fitted_weights():
    evaluator = FEW.evaluator()
    solution = solve(AnchorSearch(max_trials=6, climb_trials=6), evaluator)
    assert solution.schedule.forecaster == "fitted"
    assert len(solution.schedule.weights) == 4
    again = evaluator.evaluate([solution.schedule])
    assert mean_error(again.errors, robust=True)[0] == pytest.approx(solution.objective)


def test_without_fit_it_searches_reuse_and_keeps_the_weights_of_warm_starts():
    weighted = SAMPLER.evaluator().evaluate(
        [Schedule(num_steps=14, computed=(0, 2, 5, 9))], fit=True
    )
    solver = AnchorSearch(max_trials=4, climb_trials=8, warm=weighted.schedules, fit=False)
    solution = solve(solver, SAMPLER.evaluator())
    assert solution.schedule == weighted.schedules[0]


def test_robust_means_one_bad_sample_does_not_steer():
    errors = np.array([[1.0, 1.0, 64.0], [8.0, 8.0, 8.0], [1.0, np.nan, 1.0]])
    np.testing.assert_allclose(mean_error(errors, robust=True), [4.0, 8.0, np.inf])
    np.testing.assert_allclose(mean_error(errors, robust=False), [22.0, 8.0, np.inf])


def test_progress_never_falls_and_ends_at_the_total():
    seen = []
    solver = AnchorSearch(5, 5, progress=lambda done, total: seen.append((done, total)))
    solve(solver, SAMPLER.evaluator())
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert seen[-1] == (10, 10)


def test_optuna_is_silent_here_and_heard_elsewhere(capfd):
    verbosity = optuna.logging.get_verbosity()
    solve(AnchorSearch(max_trials=3, climb_trials=0), SAMPLER.evaluator())
    assert capfd.readouterr().err == ""
    handler = logging.getLogger("optuna").handlers[0]
    heard = []
    records = [logging.LogRecord("optuna", level, "", 0, "", None, None) for level in (20, 30)]
    with quiet("optuna"):
        assert [bool(handler.filter(r)) for r in records] == [False, True]
        thread = threading.Thread(target=lambda: heard.append(bool(handler.filter(records[0]))))
        thread.start()
        thread.join()
    assert heard == [True]
    assert handler.filters == []
    assert optuna.logging.get_verbosity() == verbosity


def test_moves_keep_the_order_and_reach_three_steps():
    schedule = Schedule(num_steps=9, computed=(0, 3, 5)).with_weights([(0.1,)] * 3)
    assert [s.computed for s in moved(schedule, 1)] == [(0, 2, 5), (0, 4, 5), (0, 1, 5)]
    assert [s.computed[2] for s in moved(schedule, 2)] == [4, 6, 7, 8]
    assert {(s.weights, s.forecaster) for s in moved(schedule, 2)} == {((), "reuse")}


def test_a_climb_says_whether_it_settled():
    def book():
        fresh = TrialBook(Counting(far_from((0, 5, 9))), (0,), None, False, True)
        fresh.errors([Schedule(num_steps=14, computed=(0, 1, 2))])
        return fresh

    assert not climb(book(), trials=4, seed=0)
    settled = book()
    assert climb(settled, trials=100, seed=0)
    assert settled.best().schedule.computed == (0, 5, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_trials": 0}, "max_trials must be at least 1, got 0"),
        ({"climb_trials": -1}, "climb_trials must be at least 0, got -1"),
        ({"study": "mine"}, "study must be omitted here, got 'mine': it names a study"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(OtcacheError, match=message):
        AnchorSearch(**settings)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (AnchorSearch(objective="lpips"), "one of latent-rmse, latent-l1, got 'lpips'"),
        (
            AnchorSearch(warm=[Schedule(num_steps=14, computed=(0, 1))]),
            r"warm\[0\] must be 4 of 14 steps, got '2 of 14'",
        ),
    ],
)
def test_what_does_not_fit_the_problem_is_refused(solver, message):
    with pytest.raises(OtcacheError, match=message):
        solve(solver, SAMPLER.evaluator())


def test_an_evaluator_of_another_step_count_or_that_breaks_is_refused():
    with pytest.raises(OtcacheError, match="must have 9 steps, got 14"):
        AnchorSearch().solve(ScheduleProblem(9, 3, evaluator=ToyEvaluator(SAMPLER)))
    with pytest.raises(OtcacheError, match="ended in NaN or infinity"):
        solve(AnchorSearch(max_trials=3), Counting(lambda steps, sample: np.nan))
