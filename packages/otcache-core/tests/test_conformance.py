"""The kits pass what keeps the contracts, and fail what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kit_fakes
import numpy as np
from kit_fakes import (
    Executor,
    ExecutorKit,
    Local,
    Outcome,
    OutcomeKit,
    Probe,
    ProbeKit,
    Rmse,
    RmseKit,
)

from otcache_core import (
    Need,
    Result,
    Schedule,
    ScheduleProblem,
    Solution,
)
from otcache_core.contracts import (
    Abilities,
    CostModel,
    ScheduleSolver,
    SpanCosts,
)
from otcache_core.forecasters import Linear
from otcache_core.solvers import Uniform
from otcache_core.testing import (
    CostModelConformance,
    ForecasterConformance,
    SolverConformance,
)


class TestLocal(kit_fakes.LocalKit): ...


class TestOutcome(kit_fakes.OutcomeKit): ...


class TestRmse(kit_fakes.RmseKit): ...


class TestExecutor(kit_fakes.ExecutorKit): ...


class TestProbe(kit_fakes.ProbeKit): ...


def failures(kit: Any) -> set[str]:
    """Return the checks of a kit that its plugin breaks."""
    return {check[5:] for check in type(kit).run_checks().failed}


def changed(kit: type, method: str, value: object) -> Any:
    return type("Changed", (kit,), {method: lambda *_: value})()


def test_a_kit_fails_an_executor_that_leaves_something() -> None:
    leaky = Executor()
    leaky.leaves = True
    broken = failures(changed(ExecutorKit, "make_executor", leaky))
    assert {"nothing_remains_after_exit", "nothing_remains_after_an_exception"} <= broken


def test_a_kit_fails_a_probe_that_nudges() -> None:
    nudging = Probe()
    nudging.nudge = 1e-12
    broken = failures(changed(ProbeKit, "make_probe", nudging))
    assert broken == {"observing_changes_nothing_and_nothing_remains"}


def test_a_kit_fails_a_cost_model_that_hides_its_nfe() -> None:
    class Cheap(Outcome):
        def measure(self, *args: Any) -> SpanCosts:
            true = super().measure(*args)
            return SpanCosts(true.costs, 0, true.samples)

    broken = failures(changed(OutcomeKit, "make_cost_model", Cheap()))
    assert broken == {"the_nfe_is_what_was_spent"}


def test_a_kit_fails_a_metric_that_wraps_bytes() -> None:
    class Wrapped(Rmse):
        def __call__(self, images: np.ndarray, reference: np.ndarray) -> np.ndarray:
            a, b = ((255 * p).astype(np.uint8) for p in (images, reference))
            return np.sqrt(((a - b).astype(np.float64) ** 2).mean((1, 2, 3)))

    broken = failures(changed(RmseKit, "make_metric", Wrapped()))
    assert {"bytes_are_refused", "other_shapes_are_refused"} <= broken


def test_a_kit_fails_a_forecaster_with_a_row_too_many() -> None:
    class Long(Linear):
        def coefficients(self, span: Any, grid: np.ndarray) -> np.ndarray:
            return np.ones((len(span.skipped) + 1, 1))

    class Kit(ForecasterConformance):
        def make_forecaster(self) -> Linear:
            return Long()

    assert failures(Kit()) == {"the_table_has_a_row_for_each_skipped_step"}


def test_a_kit_fails_a_solver_that_only_claims_to_be_exact() -> None:
    class Kit(SolverConformance):
        def make_solver(self) -> Uniform:
            return Uniform()

        def exact_objective(self) -> Callable[..., float]:
            return sum

    assert failures(Kit()) == {
        "a_span_marked_inf_is_not_used",
        "an_exact_solver_equals_brute_force",
        "an_infeasible_problem_is_a_value",
        "no_schedule_is_better_than_what_is_claimed",
        "the_objective_is_that_of_the_schedule",
    }


class Boaster(ScheduleSolver):
    """Says that it needs gains alone, is exact and answers all budgets at once; runs the pipeline."""

    abilities = Abilities(needs=frozenset({Need.GAINS}), exact=True, all_budgets=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        schedule = Uniform().solve(problem).schedule
        assert schedule is not None
        if problem.evaluator is None:
            return Solution(schedule, 0.0, Result.FOUND)
        ran = problem.evaluator.evaluate([schedule])
        return Solution(schedule, float(ran.errors.mean()), Result.FOUND, nfe=ran.nfe)


def test_a_kit_fails_a_solver_whose_abilities_are_others() -> None:
    class Kit(SolverConformance):
        def make_solver(self) -> ScheduleSolver:
            return Boaster()

    assert failures(Kit()) == {
        "a_problem_without_what_is_needed_is_refused_in_words",
        "what_is_not_in_needs_does_not_change_the_solution",
        "the_nfe_is_what_was_spent_and_nothing_without_an_evaluator",
        "the_frontier_is_what_each_budget_gives_alone",
        "all_budgets_at_once_are_not_one_after_the_other",
        "every_budget_gives_a_schedule_of_that_budget",
    }


def test_a_kit_fails_a_frontier_of_other_schedules() -> None:
    class Other(ScheduleSolver):
        def solve(self, problem: ScheduleProblem) -> Solution:
            return Uniform().solve(problem)

        def frontier(self, problem: ScheduleProblem) -> list[Solution]:
            return [self.solve(problem)] * problem.budget

    class Kit(SolverConformance):
        def make_solver(self) -> ScheduleSolver:
            return Other()

    assert failures(Kit()) == {"the_frontier_is_what_each_budget_gives_alone"}


def test_a_kit_fails_costs_that_move_the_steps() -> None:
    class Moved(SpanCosts):
        def applied(self, schedule: Schedule) -> Schedule:
            return Schedule.full(schedule.num_steps)

    class Model(Local):
        def measure(self, *given: Any) -> SpanCosts:
            found = super().measure(*given)
            return Moved(found.costs, found.nfe, found.samples)

    class Kit(CostModelConformance):
        def make_cost_model(self) -> CostModel:
            return Model()

    assert failures(Kit()) == {"applying_the_costs_keeps_the_computed_steps"}
