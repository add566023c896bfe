"""The laws of a schedule solver as tests."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest

from otcache_core.contracts.solver import ScheduleSolver
from otcache_core.errors import OtcacheError
from otcache_core.problem import Result, ScheduleProblem, Solution
from otcache_core.schedule import Schedule
from otcache_core.solvers.brute_force import BruteForce, Objective
from otcache_core.solvers.uniform import Uniform
from otcache_core.testing.toy import ToySampler


class SolverConformance(ABC):
    """Laws of :class:`~otcache_core.contracts.ScheduleSolver`.

    Override :meth:`make_solver`; an exact solver of span costs overrides :meth:`exact_objective`
    too. Problems carry costs, endpoint policies and an evaluator: whatever a solver may need.
    """

    num_steps: int = 9
    seeds: tuple[int, ...] = (0, 1)

    @abstractmethod
    def make_solver(self) -> ScheduleSolver:
        """A fresh solver, with settings that make it quick."""

    def exact_objective(self) -> Objective | None:
        """What an exact solver minimises over the span costs; None where it is not exact."""
        return None

    def make_problem(self, budget: int, seed: int) -> ScheduleProblem:
        """A problem of ``num_steps`` steps; override where a solver needs something special."""
        n = self.num_steps
        rng = np.random.default_rng(seed)
        return ScheduleProblem(
            num_steps=n,
            budget=budget,
            costs=np.triu(rng.random((n, n + 1)), k=2),
            anchor=_uniform(n, 2),
            reference=_uniform(n, n // 2),
            evaluator=ToySampler(num_steps=n, seed=seed).evaluator(),
            seed=seed,
        )

    def _solve(self, problem: ScheduleProblem) -> Solution:
        return self.make_solver().solve(problem)

    def test_every_budget_gives_a_schedule_of_that_budget(self) -> None:
        for budget in range(1, self.num_steps + 1):
            schedule = self._solve(self.make_problem(budget, 0)).schedule
            assert schedule is not None
            assert (schedule.num_steps, schedule.budget) == (self.num_steps, budget)

    def test_the_same_problem_gives_the_same_solution(self) -> None:
        first, second = (self._solve(self.make_problem(3, 1)) for _ in range(2))
        assert (first.schedule, first.objective) == (second.schedule, second.objective)

    def test_a_solver_can_be_used_again(self) -> None:
        solver = self.make_solver()
        first = solver.solve(self.make_problem(3, 0))
        solver.solve(self.make_problem(5, 1))
        assert solver.solve(self.make_problem(3, 0)).schedule == first.schedule

    def test_the_problem_is_not_changed(self) -> None:
        problem = self.make_problem(4, 0)
        before = None if problem.costs is None else problem.costs.copy()
        self._solve(problem)
        if before is not None:
            np.testing.assert_array_equal(problem.costs, before)

    def test_the_lower_bound_is_a_bound(self) -> None:
        for seed in self.seeds:
            solution = self._solve(self.make_problem(4, seed))
            assert np.isfinite(solution.objective)
            if solution.lower_bound is not None:
                assert solution.lower_bound <= solution.objective * (1 + 1e-9) + 1e-12
                assert solution.certificate, "a bound says what it bounds"

    def test_an_exact_solver_equals_brute_force(self) -> None:
        objective = self.exact_objective()
        if objective is None:
            pytest.skip("the solver does not claim to be exact")
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
        capped = ScheduleProblem(n, 2, costs, problem.anchor, problem.reference, problem.evaluator)
        solution = self._solve(capped)
        assert solution.result is Result.INFEASIBLE
        assert solution.schedule is None

    def test_a_problem_without_what_is_needed_is_refused_in_words(self) -> None:
        try:
            solution = self._solve(ScheduleProblem(self.num_steps, 3))
        except OtcacheError:
            return
        assert solution.schedule is not None


def _uniform(num_steps: int, budget: int) -> Schedule:
    schedule = Uniform().solve(ScheduleProblem(num_steps, max(1, budget))).schedule
    assert schedule is not None
    return schedule
