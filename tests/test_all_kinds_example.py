"""The package of examples/ with a plugin of every kind: each is reached by its verb, and used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import STEPS, make_loop

import otcache
from otcache.comparison.job import Job
from otcache.comparison.runner import Settings, compare
from otcache.media import run_once, save
from otcache.pipelines import open_pipeline
from otcache_core import Registry
from otcache_core.plugins import KINDS

SOURCES = Path(__file__).parents[1] / "examples" / "all_kinds" / "src"
SMALL: dict[str, Any] = {
    "ladder": (3, 6),
    "cost_samples": 1,
    "anchor_trials": 1,
    "climb_trials": 0,
    "rounding_runs": 0.0,
    "cost_model": "output-change",
    "forecaster": "damped",
}
OWN = "otcache-all-kinds"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """All of otcache, the package, and nobody else."""
    monkeypatch.syspath_prepend(str(SOURCES))
    made = Registry(entry_points=False)
    made.register_builtin()
    made.register(importlib.import_module("otcache_all_kinds.plugin"), OWN)
    return made


def test_it_offers_every_kind(registry: Registry) -> None:
    for kind in KINDS:
        own = [offer.info for offer in registry.infos(kind) if offer.distribution == OWN]
        assert own
        assert {info.api for info in own} == {2}


@pytest.mark.filterwarnings("ignore::otcache.OtcacheNotice")
def test_solver_cost_model_and_forecaster_plan_a_torch_loop(registry: Registry) -> None:
    loop, given = make_loop(), {"registry": registry, "progress": False}
    measured = otcache.calibrate(loop, ["a", "b"], STEPS, recipe=otcache.Recipe(**SMALL), **given)
    (run, _) = otcache.record(loop, ["a", "b"], STEPS, **given)
    model = registry.create("cost_models", "output-change")
    assert model.measure([run]).costs.shape == measured.span_costs.shape
    policy = otcache.plan(measured, solver="bottleneck", registry=registry)
    assert policy.solver == "bottleneck"
    by_default, costs = otcache.plan(measured), measured.span_costs
    for budget in (3, 5):
        dearest, other = (
            max(costs[span.start, span.stop] for span in made.schedule(budget).spans())
            for made in (policy, by_default)
        )
        assert dearest <= other
    with otcache.accelerate(loop, policy, 5, registry=registry) as ran, torch.no_grad():
        loop(["a"], [2], STEPS)
    assert ran.report.computed == {"call": 5}


@pytest.mark.filterwarnings("ignore::otcache.OtcacheNotice")
def test_probe_executor_and_demo_serve_a_sampler_without_torch(registry: Registry) -> None:
    opened = open_pipeline("demo:flow", registry)
    flow = opened.target
    measured = otcache.calibrate(
        flow,
        opened.prompts,
        STEPS,
        recipe=otcache.Recipe(**SMALL),
        registry=registry,
        probe="flow",
        progress=False,
    )
    policy = otcache.plan(measured)
    made = run_once(flow, policy, 4, "blue", registry=registry, executor="flow")
    assert made.report.computed == {"call": 4}
    full = run_once(flow, policy, STEPS, "blue", registry=registry, executor="flow").output
    mae = registry.create("metrics", "mae")
    assert 0 < mae(made.output[None], full[None]) < 0.1
    assert flow.denoiser.calls
    assert "damped" in {rung.schedule.forecaster for rung in measured.ladder}


def test_baseline_and_metric_are_part_of_a_comparison(registry: Registry, tmp_path: Path) -> None:
    job = Job(
        title="coloured pixels",
        pipeline="otcache_all_kinds.flow:Flow",
        num_steps=6,
        budgets=(3,),
        samples=(("blue", 1, ""),),
        calibration=("red",),
        reference_steps=0,
    )
    quiet = Settings(progress=False, metrics=("mae",))
    made, _ = compare(job, ("every-kth",), tmp_path / "out", quiet, registry=registry)
    assert made.missing == ()
    cell = made.cell("every-kth", 3)
    assert cell is not None
    assert cell.nfe == 3
    assert 0 < cell.metrics["mae"][0] < 0.5


def test_the_video_writer_is_chosen_by_its_suffix(registry: Registry, tmp_path: Path) -> None:
    video = np.linspace(0, 1, 3 * 4 * 4 * 3).reshape(3, 4, 4, 3)
    written = save(tmp_path / "video.apng", video, 8.0, registry)
    assert b"acTL" in written.read_bytes()


def test_the_published_model_is_estimated(registry: Registry) -> None:
    found = otcache.estimate("dit-xl-2", height=256, width=256, num_steps=50, registry=registry)
    assert found.call.parameters == pytest.approx(675e6, rel=0.02)
