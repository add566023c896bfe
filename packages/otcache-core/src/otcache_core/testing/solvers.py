"""The laws of a schedule solver as tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otcache_core.contracts.solver import ScheduleSolver
from otcache_core.displacements import Displacements, all_spans
from otcache_core.errors import OtcacheError
from otcache_core.problem import Need, Result, ScheduleProblem, Solution
from otcache_core.schedule import Schedule
from otcache_core.slabs import inner_products
from otcache_core.solvers.brute_force import BruteForce, Objective
from otcache_core.solvers.uniform import Uniform
from otcache_core.testing.cost_models import CountingEvaluator
from otcache_core.testing.toy import ToySampler


class SolverConformance(ABC):
    """Laws of :class:`~otcache_core.contracts.ScheduleSolver`.

    Override :meth:`make_solver`; an exact solver of span costs overrides :meth:`exact_objective`
    too. Problems carry whatever a solver may need: costs, the Gram matrix and grid of a recorded run,
    gains, displacements, endpoint policies and an evaluator.
    """

    num_steps: int = 9
    seeds: tuple[int, ...] = (0, 1)

    @abstractmethod
    def make_solver(self) -> ScheduleSolver:
        """A fresh solver, with settings that make it quick."""

    def exact_objective(self) -> Objective | None:
        """What an exact solver minimises over the span costs; None where it is not exact in them."""
        return None

    def make_problem(self, budget: int, seed: int) -> ScheduleProblem:
        """A problem of ``num_steps`` steps with every measurement; override for a special one."""
        n = self.num_steps
        rng, sampler = np.random.default_rng(seed), ToySampler(num_steps=n, seed=seed)
        costs = np.triu(rng.random((n, n + 1)), k=2)
        vectors = rng.standard_normal((len(all_spans(n)), 4))
        displaced = Displacements(n, all_spans(n), (vectors @ vectors.T)[None])
        grams = [inner_products(run.outputs) for run in sampler.trajectories()]
        return ScheduleProblem(
            num_steps=n,
            budget=budget,
            costs=costs,
            anchor=_uniform(n, 2),
            reference=_uniform(n, n // 2),
            evaluator=sampler.evaluator(),
            seed=seed,
            gram=np.mean(grams, axis=0),
            grid=sampler.grid,
            gains=rng.uniform(0.5, 3.0, n + 1),
            displacements=lambda: displaced,
        )

    def _solve(self, problem: ScheduleProblem) -> Solution:
        return self.make_solver().solve(problem)

    def test_every_budget_gives_a_schedule_of_that_budget(self) -> None:
        """Of a problem that holds what ``abilities.needs`` names, and nothing else."""
        needs = self.make_solver().abilities.needs
        for budget in range(1, self.num_steps + 1):
            bare = _without(self.make_problem(budget, 0), set(Need) - needs)
            schedule = self._solve(bare).schedule
            assert schedule is not None
            assert (schedule.num_steps, schedule.budget) == (self.num_steps, budget)

    def test_a_problem_without_what_is_needed_is_refused_in_words(self) -> None:
        for need in self.make_solver().abilities.needs:
            with pytest.raises(OtcacheError, match=f"(?i){need.value}"):
                self._solve(_without(self.make_problem(3, 0), {need}))

    def test_the_same_problem_gives_the_same_solution(self) -> None:
        first, second = (self._solve(self.make_problem(3, 1)) for _ in range(2))
        assert (first.schedule, first.objective) == (second.schedule, second.objective)

    def test_a_solver_can_be_used_again(self) -> None:
        solver = self.make_solver()
        first = solver.solve(self.make_problem(3, 0))
        solver.solve(self.make_problem(5, 1))
        assert solver.solve(self.make_problem(3, 0)).schedule == first.schedule

    def test_the_problem_is_not_changed(self) -> None:
        problem, untouched = (self.make_problem(4, 0) for _ in range(2))
        self._solve(problem)
        for name in ("costs", "gram", "grid", "gains"):
            before, after = getattr(untouched, name), getattr(problem, name)
            if before is not None:
                np.testing.assert_array_equal(after, before)

    def test_the_lower_bound_is_a_bound(self) -> None:
        for seed in self.seeds:
            solution = self._solve(self.make_problem(4, seed))
            assert np.isfinite(solution.objective)
            if solution.lower_bound is not None:
                assert solution.lower_bound <= solution.objective * (1 + 1e-9) + 1e-12
                assert solution.certificate, "a bound says what it bounds"

    def test_the_price_is_what_was_spent_and_nothing_without_an_evaluator(self) -> None:
        problem = self.make_problem(4, 0)
        if problem.evaluator is None:
            pytest.skip("the problem has no evaluator")
        counting = CountingEvaluator(problem.evaluator)
        solution = self._solve(replace(problem, evaluator=counting))
        assert solution.nfe == counting.nfe
        assert solution.nfe == 0 or Need.EVALUATOR in self.make_solver().abilities.needs

    def test_the_frontier_is_what_each_budget_gives_alone(self) -> None:
        solver, problem = self.make_solver(), self.make_problem(4, 0)
        if type(solver).frontier is ScheduleSolver.frontier:
            assert not solver.abilities.all_budgets, "one budget after the other is no single pass"
            pytest.skip("the solver has no frontier of its own")
        frontier = solver.frontier(problem)
        assert len(frontier) == problem.budget
        for budget, found in enumerate(frontier, 1):
            alone = self._solve(replace(problem, budget=budget))
            assert (found.schedule, found.objective) == (alone.schedule, alone.objective)
            assert (found.result, found.nfe) == (alone.result, alone.nfe)

    def test_an_exact_solver_says_so_of_every_budget(self) -> None:
        if not self.make_solver().abilities.exact:
            pytest.skip("the solver does not claim to be exact")
        for budget in range(1, self.num_steps + 1):
            result = self._solve(self.make_problem(budget, 1)).result
            assert result in (Result.OPTIMAL, Result.INFEASIBLE)

    def test_an_exact_solver_equals_brute_force(self) -> None:
        objective = self.exact_objective()
        if objective is None:
            pytest.skip("the solver does not claim to be exact in the span costs")
        for seed in self.seeds:
            for budget in range(1, self.num_steps + 1):
                problem = self.make_problem(budget, seed)
                got, best = self._solve(problem), BruteForce(objective).solve(problem)
                assert got.result is Result.OPTIMAL
                assert got.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-12)

    def test_an_infeasible_problem_is_a_value(self) -> None:
        if self.exact_objective() is None:
            pytest.skip("only solvers of span costs can know")
        n = self.num_steps
        problem = self.make_problem(2, 0)
        start, stop = np.indices((n, n + 1))
        assert problem.costs is not None
        costs = np.where(stop - start > n // 2 - 1, np.inf, problem.costs)
        solution = self._solve(replace(problem, costs=costs))
        assert solution.result is Result.INFEASIBLE
        assert solution.schedule is None


def _without(problem: ScheduleProblem, needs: set[Need]) -> ScheduleProblem:
    missing: dict[str, Any] = {need.value: None for need in needs}
    return replace(problem, **missing)


def _uniform(num_steps: int, budget: int) -> Schedule:
    schedule = Uniform().solve(ScheduleProblem(num_steps, max(1, budget))).schedule
    assert schedule is not None
    return schedule
