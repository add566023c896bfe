"""What a recipe chooses does the work of its stage, from any registry, or is refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy import STEPS, make_loop

import otcache
from otcache import cli
from otcache.calibration.recipe import Recipe, check_choices
from otcache.planning import nodes_of, problem_of
from otcache_core import Info, Registry, Result, ScheduleProblem, Solution, Span, hookimpl
from otcache_core.contracts import (
    Abilities,
    CostModel,
    Evaluator,
    Forecaster,
    ScheduleSolver,
    SpanCosts,
)
from otcache_core.plugins import installed
from otcache_core.problem import Need
from otcache_core.trajectory import Trajectory
from otcache_core.transport import uniform_steps

#: Little of everything; no further roundings, which quantile alone has.
FEW = Recipe(anchor_trials=2, climb_trials=0, cost_samples=1, rounding_runs=0.0, gap_runs=0.5)
CALLS: list[str] = []


class Even(ScheduleSolver):
    """Counts, and gives uniform steps."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        CALLS.append("solver")
        steps = uniform_steps(problem.num_steps, problem.budget)
        return Solution(otcache.Schedule(problem.num_steps, steps), 0.0, Result.FOUND)


class Flat(CostModel):
    """Count, and give spans their length as cost."""

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        CALLS.append("cost model")
        n = trajectories[0].num_steps
        length = np.arange(n + 1)[None] - np.arange(n)[:, None]
        return SpanCosts(np.maximum(length - 1.0, 0.0), 0, 1)


class Half(Forecaster):
    """Counts, and is half the last output."""

    def coefficients(self, span: Span, grid: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        CALLS.append("forecaster")
        return np.full((len(span.skipped), 1), 0.5)


@dataclass(frozen=True)
class Idle(Even):
    """With an option that can be written down, and one that might not."""

    size: int = 1
    other: Any = field(default_factory=tuple)


class Plugin:
    @hookimpl
    def otcache_provide_solvers(self) -> list[Info]:
        return [Info("even", f"{__name__}:Even")]

    @hookimpl
    def otcache_provide_cost_models(self) -> list[Info]:
        return [Info("flat", f"{__name__}:Flat")]

    @hookimpl
    def otcache_provide_forecasters(self) -> list[Info]:
        return [Info("half", f"{__name__}:Half")]


@pytest.fixture(scope="module")
def private() -> Registry:
    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(Plugin())
    return registry


def _calibrate(recipe: Recipe = FEW, **given: Any) -> otcache.Calibration:
    return otcache.calibrate(make_loop(), ["a", "b"], STEPS, progress=False, recipe=recipe, **given)


@pytest.mark.parametrize(
    ("choice", "reached"),
    [
        ({"cost_model": "flat"}, "cost model"),
        ({"proposals": ("even",)}, "solver"),
        ({"interpolation": "even"}, "solver"),
        ({"anchor_search": "even"}, "solver"),
        ({"refinement": "even"}, "solver"),
        ({"forecaster": "half"}, "forecaster"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_choice_reaches_its_stage(
    private: Registry, choice: dict[str, Any], reached: str
) -> None:
    CALLS.clear()
    made = _calibrate(replace(FEW, **choice), registry=private)
    assert reached in CALLS
    names = {name for rung in made.ladder for name in rung.candidates}
    if {"proposals", "interpolation"} & set(choice):
        assert "even" in names
    if "forecaster" in choice:
        baselines = {"reuse", "linear", "variable-order", "half"}
        assert {r.schedule.forecaster for r in made.ladder} | {made.anchor.forecaster} <= baselines
        assert made.anchor.forecaster == made.reference.forecaster == "half"
    if "anchor_search" in choice:
        assert made.anchor.computed == uniform_steps(STEPS, made.anchor.budget)


def test_linear_forecasts_are_the_rungs_and_may_be_refined_by_their_steps() -> None:
    made = _calibrate(replace(FEW, forecaster="linear", refinement="refine", refine_runs=4.0))
    assert made.reference.forecaster == made.anchor.forecaster == "linear"
    assert not any(rung.schedule.weights for rung in made.ladder)
    assert otcache.plan(made).schedule(4).budget == 4


# -- interpolation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exact-lp", "unbalanced"])
def test_a_policy_has_the_interpolation_s_steps_at_every_budget(name: str, tmp_path: Path) -> None:
    made = _calibrate(replace(FEW, interpolation=name))
    assert made.interpolation == name
    made.save(tmp_path)
    policy = otcache.plan(otcache.Calibration.load(tmp_path))
    assert policy == otcache.plan(made)
    nodes, solver = nodes_of(made), installed().create("solvers", name)
    assert nodes is not None
    stored = {schedule.budget: schedule for schedule in policy.ladder}
    between = 0
    for budget in range(2, STEPS):
        ends = nodes.interpolation.ends(budget)
        if ends is None:
            continue
        problem = replace(problem_of(made), budget=budget, anchor=ends[0], reference=ends[1])
        found = solver.solve(problem).schedule
        assert found is not None
        uniform = uniform_steps(STEPS, budget)
        assert stored[budget].computed in (found.computed, uniform)
        if stored[budget].computed == found.computed:
            between += 1
            assert stored[budget] == nodes.interpolation.on(found.computed)
    assert between


def test_exact_transport_on_its_default_cost_is_the_default_interpolation() -> None:
    """On squared distances, by theory: the same schedules, named otherwise."""
    lp = installed().create("solvers", "exact-lp")
    plain, transported = (
        otcache.plan(_calibrate(replace(FEW, **c))) for c in ({}, {"interpolation": lp})
    )
    for budget in range(1, STEPS + 1):
        assert plain.schedule(budget) == transported.schedule(budget)


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.remedy("which is not given there: pick one of {}")
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("proposals", "state-dp"),
        ("interpolation", "lexicographic"),
        ("anchor_search", "quantile"),
        ("refinement", "second-order"),
    ],
)
def test_a_solver_that_needs_more_than_its_stage_has_is_refused_with_others(
    stage: str, name: str
) -> None:
    def recipe(name: str) -> Recipe:
        chosen: dict[str, Any] = {stage: (name,) if stage == "proposals" else name}
        return Recipe(**chosen)

    loop = make_loop()
    with pytest.raises(otcache.OtcacheError, match=f"Recipe.{stage} needs ") as refused:
        otcache.calibrate(loop, ["a"], STEPS, progress=False, recipe=recipe(name))
    assert loop.denoiser.calls == 0
    others = str(refused.value).partition("pick one of ")[2].rstrip(".").split(", ")
    for other in others:
        check_choices(recipe(other), installed())


@pytest.mark.remedy("set Recipe.cost_model to 'displacement'.")
def test_vectors_come_from_a_cost_model_that_has_them() -> None:
    recipe = Recipe(proposals=("vector-sum",), cost_model="gram")
    with pytest.raises(otcache.OtcacheError, match=r"set Recipe\.cost_model"):
        check_choices(recipe, installed())
    check_choices(replace(recipe, cost_model="displacement"), installed())


@pytest.mark.remedy("choose refinement 'refine', or forecaster 'fitted'.")
def test_weights_that_are_not_there_are_not_refined() -> None:
    recipe = Recipe(forecaster="linear", refinement="gauss-newton")
    with pytest.raises(otcache.OtcacheError, match="moves fitted weights"):
        check_choices(recipe, installed())
    check_choices(replace(recipe, refinement="refine"), installed())
    check_choices(replace(recipe, forecaster="fitted"), installed())


@pytest.mark.parametrize(
    "choice",
    [{"cost_model": Even()}, {"interpolation": 3}, {"proposals": "even"}, {"proposals": ()},
     {"proposals": (3,)}, {"refinement": Flat()}],
    ids=lambda choice: next(iter(choice)),
)  # fmt: skip
def test_what_is_neither_a_name_nor_of_its_contract_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(otcache.OtcacheError, match=r"Recipe\."):
        Recipe(**choice)


@pytest.mark.remedy("a schedule holds its name: offer it from a plugin (docs/plugins.md).")
def test_a_forecaster_is_offered_by_name(private: Registry) -> None:
    with pytest.raises(otcache.OtcacheError, match="offer it from a plugin"):
        Recipe(forecaster=Half())  # type: ignore[arg-type]
    check_choices(Recipe(forecaster="half"), private)


class Never(ScheduleSolver):
    """Finds nothing."""

    abilities = Abilities(needs=frozenset({Need.COSTS}))

    def solve(self, problem: ScheduleProblem) -> Solution:
        return Solution(None, float("inf"), Result.INFEASIBLE)


@pytest.mark.remedy("add 'second-order' to them.")
def test_proposals_that_find_nothing_are_named() -> None:
    with pytest.raises(otcache.OtcacheError, match=r"Recipe.proposals \(Never\) finds"):
        _calibrate(replace(FEW, proposals=(Never(),)))
    assert _calibrate(replace(FEW, proposals=(Never(), "second-order"))).ladder


def test_the_command_line_takes_the_same_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Recipe] = []

    def measured(*args: object, recipe: Recipe, **given: object) -> None:
        seen.append(recipe)
        raise otcache.OtcacheError("seen")

    opened = SimpleNamespace(target=None, prompts=["a"], call={})
    monkeypatch.setattr("otcache.calibration.calibrate.calibrate", measured)
    monkeypatch.setattr("otcache.pipelines.open_pipeline", lambda name: opened)
    common = ["otcache", "calibrate", "demo", "--steps", "12", "--out", str(tmp_path / "c")]
    words = "--cost-model a --proposals b,c --interpolation d --anchor-search e --refinement f --forecaster g"
    for more in ([], words.split()):
        monkeypatch.setattr("sys.argv", [*common, *more])
        with pytest.raises(SystemExit, match="2"):
            cli.main()
    chosen = Recipe(least_samples=8)
    assert seen == [
        chosen,
        replace(
            chosen,
            cost_model="a",
            proposals=("b", "c"),
            interpolation="d",
            anchor_search="e",
            refinement="f",
            forecaster="g",
        ),
    ]
