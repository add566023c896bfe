"""What a kit says of a mistake: what is wrong and what to do, in a sentence, and nothing that misleads."""

from __future__ import annotations

import ast
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_fakes import Rmse, RmseKit

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core import testing as kits
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.solvers import BruteForce
from otcache_core.testing import ExpectedValues, KitReport, SolverConformance
from otcache_core.testing.assertions import assert_equal, assert_near

FOLDER = Path(kits.__file__).parent
COSTS = frozenset({Need.COSTS})


def test_every_assertion_of_a_kit_says_what_is_wrong() -> None:
    """And none is numpy's, whose message is a table of numbers."""
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bare = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert) and n.msg is None]
        assert bare == [], path.name
        numpys = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "testing"]
        assert numpys == [], path.name


def check(solver: type[ScheduleSolver], *checks: str, **attributes: Any) -> KitReport:
    """Run checks of the kit on a solver, on small problems."""
    hooks = {"make_solver": lambda self: solver(), "num_steps": 7, **attributes}
    return type("Kit", (SolverConformance,), hooks).run_checks(
        *(f"test_{check}" for check in checks)
    )


class Merging(ScheduleSolver):
    """Leaves out the cheapest step, one after the other; honest of what it finds, and may be stuck."""

    abilities = Abilities(needs=COSTS)

    def solve(self, problem: ScheduleProblem) -> Solution:
        costs, n = problem.costs, problem.num_steps
        if costs is None:
            raise OtcacheError("costs are needed")
        ends = list(range(n + 1))
        while len(ends) > problem.budget + 1:
            del ends[min(range(1, len(ends) - 1), key=lambda k: costs[ends[k - 1], ends[k + 1]])]
        value = sum(float(costs[i, j]) for i, j in itertools.pairwise(ends))
        if math.isinf(value):
            return self.stuck(problem)
        return Solution(Schedule(n, tuple(ends[:-1])), value, Result.FOUND)

    def stuck(self, problem: ScheduleProblem) -> Solution:
        return Solution(None, math.inf, Result.INFEASIBLE)


class Reaching(Merging):
    """The same, which takes any schedule of finite cost where it is stuck."""

    def stuck(self, problem: ScheduleProblem) -> Solution:
        costs, n = problem.costs, problem.num_steps
        assert costs is not None
        for rest in itertools.combinations(range(1, n), problem.budget - 1):
            value = sum(float(costs[i, j]) for i, j in itertools.pairwise((0, *rest, n)))
            if value < math.inf:
                return Solution(Schedule(n, (0, *rest)), value, Result.FOUND)
        return super().stuck(problem)


OBJECTIVE = "the_objective_is_that_of_the_schedule"


def test_a_heuristic_that_is_stuck_is_advised() -> None:
    report = check(Merging)
    assert report.failed == (f"test_{OBJECTIVE}",)
    (result,) = (r for r in report.results if r.check in report.failed)
    assert result.reason.startswith("only the spans of steps (0, ")
    assert "the result is INFEASIBLE: find the one schedule that is possible, or" in result.reason
    assert "objective_at(problem, schedule) of your kit" in result.reason


def test_what_the_words_advise_helps_a_heuristic() -> None:
    assert check(Reaching).passed

    def objective_at(self: object, problem: ScheduleProblem, schedule: Schedule) -> float:
        assert problem.costs is not None
        ends = (*schedule.computed, problem.num_steps)
        return sum(float(problem.costs[i, j]) for i, j in itertools.pairwise(ends))

    assert check(Merging, objective_at=objective_at).passed


class Short(Merging):
    """Gives a step too few."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        return super().solve(replace(problem, budget=max(1, problem.budget - 1)))


def test_a_schedule_of_another_size_is_one_mistake() -> None:
    report = check(Short)
    reasons = {r.reason for r in report.results if r.check in report.failed}
    assert len(report.failed) > 10
    assert all("return one with exactly B computed steps of N" in reason for reason in reasons)
    (first,) = check(Short, "every_budget_gives_a_schedule_of_that_budget").results
    assert first.reason.startswith("given N = 7, B = 2, the schedule is (0,) of N = 7: return one")


class Careless(Merging):
    """Fails where there is nothing to choose."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        min(range(1, problem.budget))
        return super().solve(problem)


def test_what_a_solver_raises_names_the_problem() -> None:
    (result,) = check(Careless, "every_budget_gives_a_schedule_of_that_budget").results
    assert result.reason.startswith("ValueError: min() ")
    assert result.reason.endswith("(given N = 7, B = 1)")


def test_an_exact_solver_whose_objective_nobody_names_is_not_said_to_be_none() -> None:
    name = "an_exact_solver_equals_brute_force"
    (result,) = check(BruteForce, name).results
    assert "which only a test of its package can name (exact_objective" in result.reason
    (result,) = check(Merging, name).results
    assert result.reason == "the solver does not claim to be exact"


class Rooted(Rmse):
    """The value of an image that is smoothed; no longer of single pixels."""

    pointwise = True

    def __call__(self, images: Any, reference: Any) -> Any:
        return super().__call__(*((v + np.roll(v, 1, axis=1)) / 2 for v in (images, reference)))


def reason(metric: type[Rmse], check: str, **attributes: Any) -> str:
    """Return what the kit of metrics says of one check."""
    hooks = {"make_metric": lambda self: metric(), **attributes}
    (result,) = type("Kit", (RmseKit,), hooks).run_checks(f"test_{check}").results
    return result.reason


def test_a_metric_that_is_not_pointwise_is_advised_to_say_so() -> None:
    found = reason(Rooted, "a_pointwise_metric_does_not_know_where_a_pixel_lies")
    assert (
        "set pointwise = False, or look at single pixels only (the largest difference is " in found
    )


def test_stale_expected_values_are_called_stale() -> None:
    images = np.full((2, 8, 8, 3), 0.95) * [1.0, 0.5, 0.2]
    answer = ExpectedValues((images, np.zeros_like(images)), [1.0, 2.0])
    check = "channels_are_what_they_are_called"
    stale: dict[str, Any] = {"expected_values": lambda self: answer, "channel_blind": True}
    assert "derive expected_values anew, or mend the metric" in reason(Rmse, check, **stale)
    wrong = reason(Rmse, check, channel_blind=not RmseKit.channel_blind)
    assert "set channel_blind = " in wrong


@pytest.mark.parametrize("check", [assert_equal, assert_near])
def test_arrays_are_compared_in_a_sentence(check: Any) -> None:
    one = np.array([1.0, np.nan, np.inf])
    check(one, one.copy(), "never said")
    with pytest.raises(AssertionError, match=r"^apart \(the largest difference is 0\.5\)$"):
        check([1.0, 2.0], [1.0, 2.5], "apart")
    with pytest.raises(AssertionError, match=r"^apart \(shapes are \(2,\) and \(3,\)\)$"):
        check([1.0, 2.0], [1.0, 2.0, 3.0], "apart")
    with pytest.raises(AssertionError, match=r"^apart \(some values are not finite\)$"):
        check([1.0, np.nan], [1.0, 2.0], "apart")
