"""Every solver, cost model, forecaster, probe and executor of ours is reached by a verb, and is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flux
import torch
from toy import STEPS, make_loop
from typer.testing import CliRunner

import otcache
from otcache.cli.app import app
from otcache.comparison.job import Job
from otcache.comparison.runner import Settings, compare
from otcache.media import run_once
from otcache.planning import MEASURED
from otcache_core import Registry, Schedule
from otcache_core.transport import uniform_steps

OURS = Registry(entry_points=False)
OURS.register_builtin()
SMALL: dict[str, Any] = {
    "ladder": (3, 6),
    "cost_samples": 1,
    "anchor_trials": 1,
    "climb_trials": 0,
    "rounding_runs": 0.0,
}
#: Computed steps with a span after each history that a forecaster may want.
STEPS_OF = (0, 1, 2, 3, 6, 9)

RUN = ["run", "toy:make_loop", "--policy", "{policy}", "--budget", "4", "--prompt", "a"]


def names(kind: str) -> list[str]:
    """Of all that our own packages offer of a kind."""
    return [offer.info.name for offer in OURS.infos(kind)]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[dict[str, Any]]]:
    """Note the settings of a kind's plugins, with their class, whenever a method of one is called."""

    def watch(kind: str, method: str) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        classes = {OURS.get(kind, name) for name in names(kind)}
        for owner in {next(c for c in one.__mro__ if method in vars(c)) for one in classes}:
            real = getattr(owner, method)

            def noted(self: Any, *args: Any, _real: Any = real, **more: Any) -> Any:
                seen.append(settings(self))
                return _real(self, *args, **more)

            monkeypatch.setattr(owner, method, noted)
        return seen

    return watch


def settings(plugin: Any) -> dict[str, Any]:
    """Return a plugin's class and plain options."""
    plain = {n: v for n, v in vars(plugin).items() if isinstance(v, (int, float, str))}
    return {"class": type(plugin), **plain}


@pytest.fixture(scope="module")
def calibration() -> otcache.Calibration:
    recipe = otcache.Recipe(**SMALL)
    return otcache.calibrate(
        make_loop(), ["a", "b"], STEPS, recipe=recipe, progress=False, registry=OURS
    )


@pytest.mark.parametrize("name", names("solvers"))
def test_a_solver_is_reached_by_plan(
    name: str, calibration: otcache.Calibration, used: Any
) -> None:
    """One that needs the pipeline has it, and what is kept is not worse than without it."""
    solver = OURS.create("solvers", name)
    seen = used("solvers", "frontier" if solver.abilities.all_budgets else "solve")
    if solver.abilities.needs <= MEASURED:
        policy = otcache.plan(calibration, solver=name, registry=OURS)
        assert policy.solver == name
    else:
        given: dict[str, Any] = {"prompts": ["a", "b"], "budgets": [4], "progress": False}
        policy = otcache.plan(calibration, solver=name, pipe=make_loop(), registry=OURS, **given)
        assert policy.solver == ""
        before = otcache.plan(calibration, registry=OURS)
        others = before.schedule(4), Schedule(STEPS, uniform_steps(STEPS, 4))
        assert log_error(policy.schedule(4)) <= min(map(log_error, others)) + 1e-6
        assert [policy.schedule(b) for b in (3, 6)] == [before.schedule(b) for b in (3, 6)]
    assert seen[0]["class"] is type(solver)


def log_error(schedule: Schedule) -> float:
    """Mean logarithm of the RMSE of real runs against full ones."""
    loop = make_loop()
    with torch.no_grad():
        full = loop(["a", "b"], [0, 1], STEPS)
        with otcache.accelerate(loop, schedule):
            made = loop(["a", "b"], [0, 1], STEPS)
    return float((made - full).square().mean(dim=1).sqrt().log().mean())


@pytest.mark.parametrize("name", names("cost_models"))
def test_a_cost_model_is_reached_by_a_recipe(name: str, used: Any) -> None:
    seen = used("cost_models", "measure")
    recipe = otcache.Recipe(cost_model=name, **SMALL)
    otcache.calibrate(make_loop(), ["a", "b"], STEPS, recipe=recipe, progress=False, registry=OURS)
    assert seen[0]["class"] is OURS.get("cost_models", name)


@pytest.mark.parametrize("name", names("forecasters"))
def test_a_forecaster_is_reached_by_a_schedule(name: str, used: Any) -> None:
    seen = used("forecasters", "coefficients")
    loop = make_loop()
    weights = ((), (0.1,), (0.2,), (0.1, 0.2), (0.3, -0.1), (0.1,)) if name == "fitted" else ()
    schedule = Schedule(STEPS, STEPS_OF, name, weights)
    with otcache.accelerate(loop, schedule, registry=OURS) as run, torch.no_grad():
        loop(["a"], [0], STEPS)
    assert run.report.computed == {"call": len(STEPS_OF)}
    assert seen[0] == settings(OURS.create("forecasters", name))


@pytest.mark.parametrize("name", names("probes"))
def test_a_probe_is_reached_by_name(name: str, calibration: otcache.Calibration, used: Any) -> None:
    seen, given = used("probes", "record"), {"probe": name, "registry": OURS, "progress": False}
    otcache.record(make_loop(), ["a"], STEPS, **given)
    recipe = otcache.Recipe(**SMALL)
    found = otcache.calibrate(make_loop(), ["a", "b"], STEPS, recipe=recipe, **given)
    assert [one["class"] for one in seen] == [OURS.get("probes", name)] * len(seen)
    np.testing.assert_array_equal(found.gram, calibration.gram)


@pytest.mark.parametrize("name", names("executors"))
def test_an_executor_is_reached_by_name(name: str, used: Any) -> None:
    """On a loop; where blocks are wanted, which the loop's denoiser does not have, on a pipeline."""
    seen, loop, pipe = used("executors", "attach"), make_loop(), tiny_flux.make_flux()
    alone = not OURS.create("executors", name).supports(loop)
    target, n = (loop, STEPS) if alone else (pipe, tiny_flux.N)
    with otcache.accelerate(target, Schedule(n, (0, 1, 4)), executor=name, registry=OURS) as run:
        if alone:
            loop(["a"], [0], n)
        else:
            tiny_flux.sample(pipe)
    assert set(run.report.computed.values()) == {3}
    assert seen[0]["class"] is OURS.get("executors", name)


def test_a_single_run_takes_both_by_name(calibration: otcache.Calibration, used: Any) -> None:
    seen, sampled = used("executors", "attach"), used("probes", "sample")
    policy = otcache.plan(calibration, registry=OURS)
    made = run_once(make_loop(), policy, 4, "a", executor="torch", probe="torch", registry=OURS)
    assert made.report.computed == {"call": 4}
    assert seen[0]["class"] is OURS.get("executors", "torch")
    assert sampled[0]["class"] is OURS.get("probes", "torch")


@pytest.mark.parametrize(
    "verb",
    [
        ["calibrate", "toy:make_loop", "--steps", "12", "--out", "{}", "--probe", "other"],
        [*RUN, "--probe", "other"],
        [*RUN, "--executor", "other"],
        ["compare", "demo", "--out", "{}", "--probe", "other"],
        ["compare", "demo", "--out", "{}", "--executor", "other"],
    ],
    ids=" ".join,
)
def test_the_command_line_uses_the_plugin_that_is_named(
    verb: list[str], calibration: otcache.Calibration, tmp_path: Path
) -> None:
    """Which is seen where there is none of that name."""
    otcache.plan(calibration).save(tmp_path / "policy")
    (tmp_path / "prompts").write_text("a")
    words = [word.format(tmp_path / "cal", policy=tmp_path / "policy") for word in verb]
    if verb[0] == "calibrate":
        words += ["--prompts", str(tmp_path / "prompts")]
    outcome = CliRunner().invoke(app, words)
    assert isinstance(outcome.exception, otcache.OtcacheError)
    assert "other" in str(outcome.exception)


def test_the_command_line_plans_by_any_solver(
    calibration: otcache.Calibration, tmp_path: Path
) -> None:
    calibration.save(tmp_path / "cal")
    words = ["plan", str(tmp_path / "cal"), "--out", str(tmp_path / "p"), "--solver", "uniform"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert otcache.load_policy(tmp_path / "p").solver == "uniform"


#: Two probes and two executors of one pipeline, whose images show which of them were used.
PAIRS = """
from contextlib import contextmanager

import numpy as np

from otcache_core.contracts import CacheExecutor, FeatureProbe, Measured, RunReport
from otcache_core.contracts.execution import ReportedRun
from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_probes():
    scales = {"a-probe": 1.0, "b-probe": 0.5}
    return [Info(n, "pairs:Scaled", options={"scale": s}) for n, s in scales.items()]


@hookimpl
def otcache_provide_executors():
    levels = {"a-executor": 0.2, "b-executor": 0.8}
    return [Info(n, "pairs:Level", options={"level": v}) for n, v in levels.items()]


class Pipe:
    level = 0.0


class Scaled(FeatureProbe):
    def __init__(self, scale):
        self.scale = scale

    def supports(self, target):
        return "" if isinstance(target, Pipe) else "is no such pipeline"

    def sample(self, target, request):
        shape = (len(request.prompts), 4, 4, 3)
        return np.full(shape, self.scale * target.level, np.float32)

    def measure(self, target, request, *, flops=False):
        n = request.num_steps
        return Measured(self.sample(target, request), None, n / 100, 10 * n if flops else None, 1)

    def provenance(self, target, request):
        return {}

    record = evaluator = provenance


class Level(CacheExecutor):
    def __init__(self, level):
        self.level = level

    def supports(self, target):
        return "" if isinstance(target, Pipe) else "is no such pipeline"

    @contextmanager
    def attach(self, target, schedule, *, strict=False, **options):
        target.level = self.level
        yield ReportedRun(RunReport(runs=1))
        target.level = 0.0
"""


def test_a_comparison_takes_both_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.py").write_text(PAIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pairs", raising=False)
    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(importlib.import_module("pairs"), "service")
    job = Job(
        title="which",
        pipeline="pairs:Pipe",
        num_steps=4,
        budgets=(2,),
        samples=(("a", 1, ""),),
        calibration=("b",),
        reference_steps=0,
        probe="b-probe",
        executor="b-executor",
    )
    quiet = Settings(progress=False, metrics=("rmse",))
    made, _ = compare(job, ("uniform",), tmp_path / "out", quiet, registry=registry)
    cell = made.cell("uniform", 2)
    assert cell is not None
    assert cell.metrics["rmse"] == pytest.approx((0.5 * 0.8,))
