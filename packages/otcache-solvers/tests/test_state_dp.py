"""state-dp against a plain loop over labels, and against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.contracts import Evaluator
from otcache_core.testing import ToySampler
from otcache_solvers.search.state_dp import StateDP

seeds = st.integers(0, 50)


def simulated(sampler: ToySampler, budget: int) -> tuple[int, ...]:
    """Return the same rule with states carried in the labels, no evaluator: B N velocity calls."""
    n, s = sampler.num_steps, sampler.grid
    full = np.stack([t.states for t in sampler.trajectories()], axis=1)
    labels = {0: (sampler.start, ())}
    for _ in range(budget):
        best: dict[int, tuple[float, np.ndarray, tuple[int, ...]]] = {}
        for i, (x, path) in labels.items():
            if i == n:
                continue
            v = sampler.velocity(x, s[i])
            for j in range(i + 1, n + 1):
                y = x + (s[j] - s[i]) * v
                d = float(np.sqrt(((y - full[j]) ** 2).mean(-1)).mean())
                if j not in best or d < best[j][0] - 1e-13:
                    best[j] = d, y, (*path, i)
        labels = {j: (y, path) for j, (_, y, path) in best.items()}
    return labels[n][1]


@settings(max_examples=25, deadline=None)
@given(seed=seeds, budget=st.integers(1, 5))
def test_it_is_the_dp_that_carries_states(seed: int, budget: int) -> None:
    sampler = ToySampler(num_steps=8, num_samples=2, seed=seed)
    problem = ScheduleProblem(8, budget, evaluator=sampler.evaluator())
    assert StateDP().solve(problem).schedule.computed == simulated(sampler, budget)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_the_objective_is_the_true_error_and_no_better_than_the_optimum(seed: int) -> None:
    sampler = ToySampler(num_steps=7, num_samples=2, seed=seed)
    evaluator = sampler.evaluator()
    found = StateDP().frontier(ScheduleProblem(7, 7, evaluator=evaluator))
    assert [s.schedule.budget for s in found] == list(range(1, 8))
    for solution in found:
        budget = solution.schedule.budget
        every = [Schedule(7, (0, *rest)) for rest in combinations(range(1, 7), budget - 1)]
        errors = evaluator.evaluate(every).errors.mean(1)
        true = evaluator.evaluate([solution.schedule]).errors.mean()
        assert solution.objective == pytest.approx(true, abs=1e-12)
        assert solution.objective >= errors.min() - 1e-12
    assert found[-1].objective == pytest.approx(0, abs=1e-12)


def test_a_last_step_is_optimal() -> None:
    """With two computed steps there is one choice, and it is tried out in full."""
    sampler = ToySampler(num_steps=10, num_samples=3)
    evaluator = sampler.evaluator()
    found = StateDP().solve(ScheduleProblem(10, 2, evaluator=evaluator))
    errors = evaluator.evaluate([Schedule(10, (0, k)) for k in range(1, 10)]).errors.mean(1)
    assert found.objective == pytest.approx(errors.min())


def test_samples_are_a_subset() -> None:
    evaluator = ToySampler(num_steps=8, num_samples=3).evaluator()
    problem = ScheduleProblem(8, 3, evaluator=evaluator)
    assert 3 * StateDP(samples=1).solve(problem).nfe == StateDP().solve(problem).nfe


def test_an_evaluator_without_states_is_refused() -> None:
    inner = ToySampler(num_steps=8).evaluator()

    class ResultsOnly(Evaluator):
        grid, num_samples, objectives = inner.grid, 1, ("latent-rmse",)

        def evaluate(self, *args, **kwargs):
            return inner.evaluate(*args, **kwargs)

    with pytest.raises(OtcacheError, match="results only"):
        StateDP().solve(ScheduleProblem(8, 3, evaluator=ResultsOnly()))


def test_bad_settings() -> None:
    with pytest.raises(OtcacheError, match="at least 1"):
        StateDP(samples=0)
