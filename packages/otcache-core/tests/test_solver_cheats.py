"""Solvers that cheat, each caught by the check of the kit that is named beside it."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.random import default_rng as own_name

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.solvers import BruteForce, Uniform
from otcache_core.testing import SolverConformance
from otcache_core.testing.assertions import seeds_of_generators

COSTS = frozenset({Need.COSTS})


class Honest(ScheduleSolver):
    """The least sum of span costs by brute force; cheats change one thing."""

    abilities = Abilities(needs=COSTS, exact=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        return BruteForce().solve(problem)


class Kit(SolverConformance):
    """The objective is hidden: the kit must find out by itself."""

    solver: type[ScheduleSolver] = Honest
    num_steps = 7

    def make_solver(self) -> ScheduleSolver:
        return self.solver()


class TestHonest(Kit): ...


def first_of(problem: ScheduleProblem, count: int) -> Solution:
    """Return the best of the first schedules that may be used, called optimal."""
    costs, n = problem.costs, problem.num_steps
    if costs is None:
        raise OtcacheError("costs are needed")
    found: list[tuple[float, tuple[int, ...]]] = []
    for rest in itertools.combinations(range(1, n), problem.budget - 1):
        value = math.fsum(costs[i, j] for i, j in itertools.pairwise((0, *rest, n)))
        if value < math.inf and len(found) < count:
            found.append((value, (0, *rest)))
    if not found:
        return Solution(None, math.inf, Result.INFEASIBLE)
    value, steps = min(found)
    return Solution(Schedule(n, steps), value, Result.OPTIMAL)


class Boasting(Honest):
    """Looks at three schedules, claims to be exact, and reports their objective honestly."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        return first_of(problem, 3)


class Silent(Boasting):
    """The same without the claim: only the result says OPTIMAL."""

    abilities = Abilities(needs=COSTS)


class Loose(Honest):
    """Claims to be exact, and never says so of a schedule."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = super().solve(problem)
        return found if found.schedule is None else replace(found, result=Result.FOUND)


class TightlyBound(Honest):
    """Gives its own objective as a bound, of a schedule that is not the best."""

    abilities = Abilities(needs=COSTS)

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = replace(first_of(problem, 3), lower_bound=None, certificate="mine")
        return (
            found
            if found.schedule is None
            else replace(found, result=Result.FOUND, lower_bound=found.objective)
        )


class Daring(Honest):
    """Takes spans marked inf for cheap ones."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        if problem.costs is None:
            return super().solve(problem)
        costs = np.where(np.isinf(problem.costs), 0.0, problem.costs)
        return super().solve(replace(problem, costs=costs))


class Giving(Honest):
    """Raises where there is no schedule."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = super().solve(problem)
        if found.schedule is None:
            raise OtcacheError("no schedule")
        return found


class Flattering(Honest):
    """Reports less than its schedule costs."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = super().solve(problem)
        if problem.budget == problem.num_steps or found.schedule is None:
            return found
        reported = 0.5 * found.objective + 0.01 * found.schedule.computed[-1]
        reported += 1e-3 * float(np.isfinite(problem.costs).sum())
        return replace(found, objective=reported, lower_bound=None)


class Constant(Honest):
    """Reports the same whatever was measured."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = super().solve(problem)
        return found if found.schedule is None else replace(found, objective=1.0, lower_bound=1.0)


class Grasping(Honest):
    """Needs the anchor as well, and says nothing of it."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        if problem.anchor is None:
            raise OtcacheError("the anchor is needed")
        return super().solve(problem)


class Peeping(ScheduleSolver):
    """Claims to need nothing, and solves for the costs where there are some."""

    abilities = Abilities()

    def solve(self, problem: ScheduleProblem) -> Solution:
        return (Uniform() if problem.costs is None else BruteForce()).solve(problem)


class Tired(Honest):
    """Is exact for small budgets, and of problems that it has a reason to expect."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        tired = problem.budget == 5 and problem.seed == 0
        return first_of(problem, 2) if tired else super().solve(problem)


class Scaling(Honest):
    """Scales the costs where they are."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        if problem.costs is not None:
            np.multiply(problem.costs, 1 + 1e-15, out=problem.costs)
        return super().solve(problem)


class Sorting(Honest):
    """Sorts gains that it has no business with."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        if problem.gains is not None:
            problem.gains.sort()
        return super().solve(problem)


class Restoring(Honest):
    """Halves the costs where they are, and doubles them again."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        if problem.costs is not None:
            for factor in (0.5, 2.0):
                np.multiply(problem.costs, factor, out=problem.costs)
        return super().solve(problem)


class Caching(Honest):
    """Answers what it answered any problem of these N and B, in this process."""

    known: ClassVar[dict[Any, Solution]] = {}

    def solve(self, problem: ScheduleProblem) -> Solution:
        if problem.costs is None:
            return super().solve(problem)
        return self.known.setdefault((problem.num_steps, problem.budget), super().solve(problem))


class Counting(Honest):
    """Is worse each second time, of whatever instance."""

    count = itertools.count()

    def solve(self, problem: ScheduleProblem) -> Solution:
        return super().solve(problem) if next(self.count) % 2 else first_of(problem, 3)


class Warm(Honest):
    """Begins where it ended the last time, and stays there if it can."""

    last: tuple[int, ...] = ()

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = super().solve(problem)
        if found.schedule is not None and self.last and problem.budget == 3:
            return first_of(problem, 1)
        self.last = found.schedule.computed if found.schedule else ()
        return found


class Stubborn(Honest):
    """Draws from the same seed whatever the problem's."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        return self.drawn(problem, np.random.default_rng(0))

    def drawn(self, problem: ScheduleProblem, rng: np.random.Generator) -> Solution:
        found = first_of(problem, 1 + int(rng.integers(5)))
        return found if found.schedule is None else replace(found, result=Result.FOUND)


class Unseeded(Stubborn):
    """Draws from a generator that nobody seeded."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        return self.drawn(problem, np.random.default_rng())


class Imported(Stubborn):
    """Draws from the same seed, by a name of its own for numpy's function."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        return self.drawn(problem, own_name(0))


class Old(Stubborn):
    """Draws from the same seed, by numpy's older generator."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = first_of(problem, 1 + np.random.RandomState(0).randint(5))
        return found if found.schedule is None else replace(found, result=Result.FOUND)


class Standard(Stubborn):
    """Draws from the same seed, by Python's generator."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = first_of(problem, 1 + random.Random(0).randrange(5))
        return found if found.schedule is None else replace(found, result=Result.FOUND)


class Worldly(Stubborn):
    """Draws from numpy's global state."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        return self.drawn(problem, np.random.default_rng(np.random.randint(99)))  # noqa: NPY002


class Seeding(Honest):
    """Seeds the random state of the whole process with the problem's seed."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        random.seed(problem.seed)
        return super().solve(problem)


class Spending(Honest):
    """Runs the pipeline, and says it did not."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = super().solve(problem)
        if problem.evaluator is not None and found.schedule is not None:
            problem.evaluator.evaluate([found.schedule])
        return found


class OneByOne(Honest):
    """Claims to answer all budgets at once, and solves one after the other."""

    abilities = Abilities(needs=COSTS, exact=True, all_budgets=True)

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        return [self.solve(replace(problem, budget=b)) for b in range(1, problem.budget + 1)]


class Hasty(OneByOne):
    """Answers all budgets at once, the smaller ones not as well as alone."""

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        budgets = range(1, problem.budget)
        rough = [first_of(replace(problem, budget=b), 2) for b in budgets]
        return [*rough, self.solve(problem)]


#: A cheat, and the check that catches it.
CHEATS: dict[type[ScheduleSolver], str] = {
    Boasting: "no_schedule_is_better_than_what_is_claimed",
    Silent: "no_schedule_is_better_than_what_is_claimed",
    Loose: "every_budget_gives_a_schedule_of_that_budget",
    TightlyBound: "no_schedule_is_better_than_what_is_claimed",
    Daring: "a_span_marked_inf_is_not_used",
    Giving: "an_infeasible_problem_is_a_value",
    Flattering: "the_objective_is_that_of_the_schedule",
    Constant: "other_measurements_give_another_objective",
    Grasping: "every_budget_gives_a_schedule_of_that_budget",
    Peeping: "what_is_not_in_needs_does_not_change_the_solution",
    Tired: "no_schedule_is_better_than_what_is_claimed",
    Scaling: "the_problem_is_not_changed",
    Sorting: "the_problem_is_not_changed",
    Restoring: "measurements_may_be_read_only",
    Caching: "other_measurements_give_another_objective",
    Counting: "the_same_problem_gives_the_same_solution",
    Warm: "a_solver_can_be_used_again",
    Stubborn: "random_choices_follow_the_seed_of_the_problem",
    Unseeded: "random_choices_follow_the_seed_of_the_problem",
    Imported: "random_choices_follow_the_seed_of_the_problem",
    Old: "random_choices_follow_the_seed_of_the_problem",
    Standard: "random_choices_follow_the_seed_of_the_problem",
    Worldly: "the_random_state_of_the_process_is_left_alone",
    Seeding: "the_random_state_of_the_process_is_left_alone",
    Spending: "the_nfe_is_what_was_spent_and_nothing_without_an_evaluator",
    OneByOne: "all_budgets_at_once_are_not_one_after_the_other",
    Hasty: "the_frontier_is_what_each_budget_gives_alone",
}


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_caught(cheat: type[ScheduleSolver]) -> None:
    check = f"test_{CHEATS[cheat]}"
    assert type("Cheating", (Kit,), {"solver": cheat}).run_checks(check).failed == (check,)


def test_what_notes_the_seeds_is_gone_afterwards_and_is_no_other_type() -> None:
    real = (np.random.default_rng, np.random.RandomState, random.Random, own_name)
    old = random.Random(1)
    with seeds_of_generators(__name__) as made:
        assert isinstance(old, random.Random)
        assert random.Random(2).random() == real[2](2).random()
        assert own_name(3).random() == real[0](3).random()
        assert np.random.RandomState(4).rand() == real[1](4).rand()
    assert made == [2, 3, 4]
    assert (np.random.default_rng, np.random.RandomState, random.Random, own_name) == real
