"""Refinement of forecast weights against problems whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.testing import ToySampler
from otcache_core.testing.spans import CountingEvaluator
from otcache_solvers.search.gauss_newton import GaussNewton, WeightVector

TOY = ToySampler(num_steps=12, num_samples=8)


def _fitted(computed=(0, 3, 6, 9), toy=TOY):
    return toy.evaluator().evaluate([Schedule(12, computed)], fit=True).schedules[0]


def _error(schedule, toy=TOY, samples=None):
    errors = toy.evaluator().evaluate([schedule], samples=samples).errors
    return float(np.exp(np.log(errors).mean()))


def test_a_weight_put_off_its_best_value_is_put_back():
    """With one weight and an ODE linear in x the end is linear in c, and one step is exact."""
    toy = ToySampler(num_steps=6, num_samples=4, nonlinearity=0.0)
    off = Schedule(6, (0, 1, 2, 3, 4)).with_weights([()] * 4 + [(0.5,)])
    problem = ScheduleProblem(6, 5, reference=off, evaluator=toy.evaluator())
    solver = GaussNewton(dampings=(1e-12,), split=0.25)
    found = WeightVector.of(solver.solve(problem).schedule).values[0]
    errors = []
    for c in (found - 1e-3, found, found + 1e-3):
        schedule = Schedule(6, (0, 1, 2, 3, 4)).with_weights([()] * 4 + [(c,)])
        e = toy.evaluator().evaluate([schedule], samples=range(3)).errors[0]
        base = toy.evaluator().evaluate([off], samples=range(3)).errors[0]
        errors.append(((e / base) ** 2).sum())
    assert errors[1] <= min(errors[0], errors[2])


def test_the_error_on_samples_kept_out_never_rises():
    for seed in range(5):
        toy = ToySampler(num_steps=12, num_samples=8, seed=seed)
        start = _fitted(toy=toy)
        problem = ScheduleProblem(12, 4, reference=start, evaluator=toy.evaluator())
        solution = GaussNewton().solve(problem)
        kept = range(6, 8)
        assert _error(solution.schedule, toy, kept) <= _error(start, toy, kept) * (1 + 1e-12)
        held = solution.kept_out
        assert held.accepted == (held.refined < held.start) == (solution.schedule != start)
        assert solution.objective == min(held.refined, held.start)


def test_it_improves_a_fitted_schedule():
    problem = ScheduleProblem(12, 4, reference=_fitted(), evaluator=TOY.evaluator())
    solution = GaussNewton().solve(problem)
    assert solution.kept_out.accepted
    assert _error(solution.schedule) < 0.9 * _error(_fitted())


def test_evaluations_are_counted():
    counting = CountingEvaluator(TOY.evaluator())
    problem = ScheduleProblem(12, 4, reference=_fitted(), evaluator=counting)
    assert GaussNewton().solve(problem).nfe == counting.nfe


def test_weights_of_branches_are_varied_and_shared_ones_left():
    schedule = Schedule(9, (0, 1, 4)).with_weights(
        [(0.0,), (0.1, 0.2), (0.3,)], {"a": [(0.0,), (1.0, 2.0), (3.0,)]}
    )
    vector = WeightVector.of(schedule)
    assert vector.places == (("a", 1, 0), ("a", 1, 1), ("a", 2, 0))
    assert vector.values.tolist() == [1.0, 2.0, 3.0]
    doubled = vector.schedule(2 * vector.values)
    assert doubled.weights == schedule.weights
    assert dict(doubled.branch_weights)["a"] == ((0.0,), (2.0, 4.0), (6.0,))


def test_one_sample_is_too_few():
    toy = ToySampler(num_steps=6, num_samples=1)
    with pytest.raises(OtcacheError, match="samples must be at least 2, got 1"):
        GaussNewton().solve(ScheduleProblem(6, 2, evaluator=toy.evaluator()))


@pytest.mark.parametrize("bad", [{"split": 0.0}, {"dampings": (0.0,)}, {"step": 0.0}])
def test_bad_settings(bad):
    with pytest.raises(OtcacheError, match="GaussNewton"):
        GaussNewton(**bad)
