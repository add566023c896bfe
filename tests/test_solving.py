"""A policy from the steps of any installed solver that needs no pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import STEPS, make_loop

import otcache
from otcache.comparison.baselines import SolverSteps
from otcache.comparison.runner import check_methods
from otcache.comparison.scheduled import Tuning
from otcache.planning import MEASURED, problem_of
from otcache_core import Info, Need, Registry, Result, ScheduleProblem, Solution, hookimpl
from otcache_core.contracts import Abilities, SampleRequest, ScheduleSolver
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import installed

NAMES = [o.info.name for o in installed().infos("solvers")]
ABLE = [n for n in NAMES if installed().create("solvers", n).abilities.needs <= MEASURED]


@pytest.fixture(scope="module")
def calibration() -> otcache.Calibration:
    return otcache.calibrate(make_loop(), ["a", "b"], STEPS, progress=False)


@pytest.mark.parametrize(
    "name", ["quantile", "shortest-path"]
)  # the others: test_plugins_are_reached
def test_the_steps_are_the_solver_s_and_the_forecasts_the_calibration_s(
    calibration: otcache.Calibration, name: str
) -> None:
    fitted, solver = otcache.plan(calibration), installed().create("solvers", name)
    policy = otcache.plan(calibration, solver=name)
    assert policy.solver == name
    assert [s.budget for s in policy.ladder] == list(range(2, STEPS))
    for budget in (2, 5):
        schedule = policy.schedule(budget)
        one = ScheduleProblem(**{**vars(problem_of(calibration)), "budget": budget})
        found = solver.solve(one).schedule
        assert found is not None
        assert schedule.computed == found.computed
        assert schedule.forecaster == fitted.schedule(budget).forecaster


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ABLE))[:1])
@pytest.mark.remedy(
    "which a calibration does not hold: give pipe= and prompts=, or choose one of {}"
)
def test_one_that_needs_the_pipeline_is_refused_with_those_that_do_not(
    calibration: otcache.Calibration, name: str
) -> None:
    with pytest.raises(otcache.OtcacheError, match="needs the pipeline itself") as refused:
        otcache.plan(calibration, solver=name)
    able = str(refused.value).partition("choose one of ")[2].rstrip(".").split(", ")
    assert able == ABLE
    assert otcache.plan(calibration, solver=able[-1]).solver == able[-1]


def test_the_best_measured_steps_keep_what_was_fitted_to_them(
    calibration: otcache.Calibration,
) -> None:
    """A solver that gives the ladder's own steps gives its schedules, to the last bit."""
    fitted = otcache.plan(calibration)

    class Same(ScheduleSolver):
        def solve(self, problem: ScheduleProblem) -> Solution:
            return Solution(fitted.schedule(problem.budget), 0.0, Result.FOUND)

    policy = otcache.plan(calibration, solver=Same())
    assert [policy.schedule(b) for b in range(1, STEPS + 1)] == [
        fitted.schedule(b) for b in range(1, STEPS + 1)
    ]


class Odd(ScheduleSolver):
    """Knows odd budgets only."""

    abilities = Abilities(needs=frozenset({Need.COSTS}))

    def solve(self, problem: ScheduleProblem) -> Solution:
        if problem.budget % 2 == 0:
            return Solution(None, float("inf"), Result.INFEASIBLE)
        steps = tuple(range(problem.budget))
        return Solution(otcache.Schedule(problem.num_steps, steps), 0.0, Result.FOUND)


def test_a_private_registry_s_solver_is_chosen_and_its_gaps_are_interpolated(
    calibration: otcache.Calibration,
) -> None:
    class Plugin:
        @hookimpl
        def otcache_provide_solvers(self) -> list[Info]:
            return [Info("odd", f"{__name__}:Odd")]

    registry = Registry(entry_points=False)
    registry.register(Plugin())
    with pytest.warns(OtcacheNotice, match="no schedule at B = 2, 4, 6, 8, 10"):
        policy = otcache.plan(calibration, solver="odd", registry=registry)
    assert [s.budget for s in policy.ladder] == [3, 5, 7, 9, 11]
    assert policy.schedule(4).budget == 4


def test_what_was_not_measured_says_so_when_it_runs(
    calibration: otcache.Calibration, tmp_path: Path
) -> None:
    otcache.plan(calibration, solver="shortest-path").save(tmp_path / "p.json")
    policy, loop = otcache.load_policy(tmp_path / "p.json"), make_loop()
    with (
        pytest.warns(
            OtcacheNotice, match="solver 'shortest-path', and what they do was not measured"
        ),
        otcache.accelerate(loop, policy, 4) as run,
        torch.no_grad(),
    ):
        loop(["a"], [0], STEPS)
    assert run.report.computed == {"call": 4}


# -- rows of a comparison -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ran"), [("halving", False), ("vector-sum", True), ("state-dp", True)]
)
def test_a_row_of_a_comparison_has_the_steps_of_any_solver(
    calibration: otcache.Calibration, name: str, ran: bool
) -> None:
    """Also of one that needs the pipeline, which counts towards its cost."""

    class Plugin:
        @hookimpl
        def otcache_provide_solvers(self) -> list[Info]:
            return [Info("halving", f"{__name__}:Halving")]

    registry = Registry()
    registry.register(Plugin())
    assert check_methods(["uniform", f"solver:{name}"], registry) == ["uniform", f"solver:{name}"]
    request = SampleRequest(("a", "b"), (0, 1), STEPS)
    made, nfe = SolverSteps.made_by(registry, name, calibration).schedules(
        Tuning(make_loop(), request, registry), (2, 4)
    )
    assert [made[b].budget for b in (2, 4)] == [2, 4]
    assert {s.forecaster for s in made.values()} <= {"fitted", "linear", "reuse", "variable-order"}
    assert nfe is not None
    assert (nfe > sum(calibration.nfe.values())) == ran
    if name == "halving":
        assert made[4].computed == (0, 2, 4, 8)


class Halving(ScheduleSolver):
    """Halves the density over the run."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        n, b = problem.num_steps, problem.budget
        steps = tuple(int(n * (2 ** (m / b) - 1)) for m in range(b))
        return Solution(otcache.Schedule(n, steps), 0.0, Result.FOUND)


def test_a_solver_that_is_not_there_is_named(calibration: otcache.Calibration) -> None:
    with pytest.raises(otcache.OtcacheError, match="did you mean solver:sinkhorn"):
        check_methods(["solver:sinkhron"], installed())


@pytest.mark.remedy("not vectors: use the cost model 'displacement'")
def test_a_cost_model_without_vectors_says_which_has_them() -> None:
    tuning = Tuning(make_loop(), SampleRequest(("a",), (0,), STEPS), installed())
    make = installed().create
    with pytest.raises(otcache.OtcacheError, match="use the cost model"):
        make("cost_models", "local").displacements(tuning.recorded)
    found = make("cost_models", "displacement").displacements(tuning.recorded, tuning.evaluator)
    assert found.num_steps == STEPS


class Lies(ScheduleSolver):
    """Computes more steps than it may, or answers with something else."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    abilities = Abilities(all_budgets=True)

    def solve(self, problem: ScheduleProblem) -> Solution:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]  # a plugin that nobody checked

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        return [self.solve(problem)] * (3 if self.answer is None else problem.budget)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Solution(otcache.Schedule(STEPS, (0, 1, 2)), 0.0, Result.FOUND), "must be 1 of 12 steps"),
        (Solution(otcache.Schedule(9, (0,)), 0.0, Result.FOUND), "got '1 of 9 steps'"),
        ("the first steps", "must be a Solution, got 'str'"),
        (None, "must be 11 solutions, one per budget, got 3"),
        (KeyError("gram"), "solver 'Lies' failed: KeyError: 'gram'"),
    ],
)
def test_what_is_no_answer_names_the_solver(
    calibration: otcache.Calibration, answer: object, said: str
) -> None:
    with pytest.raises(otcache.PluginError, match="solver 'Lies'") as refused:
        otcache.plan(calibration, solver=Lies(answer))
    assert said in str(refused.value)
