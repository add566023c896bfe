"""The demo pipeline and a loop around its transformer, guided by two calls per step, are one sampler."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import otcache
from otcache_core.schedule import Schedule
from otcache_diffusers import demo

STEPS = 8
RECIPE = otcache.Recipe(
    ladder=(3, 5),
    cost_samples=1,
    anchor_trials=2,
    climb_trials=1,
    rounding_runs=0.0,
    objective="latent-rmse",
    fidelity="latent-rmse",
)


def _example() -> Any:
    path = Path(__file__).parent.parent / "examples" / "guided_loop.py"
    spec = importlib.util.spec_from_file_location("guided_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipe() -> Any:
    return demo.load()


def _numbers(schedule: Schedule) -> Any:
    """All weights, the shared ones and each branch's."""
    tables = [schedule.weights, *(rows for _, rows in schedule.branch_weights)]
    return np.concatenate([row for rows in tables for row in rows])


def test_a_guided_loop_is_calibrated_as_the_pipeline_is(pipe: Any) -> None:
    loop = _example().guided_loop(pipe)
    prompts = [text for text, _ in demo.prompts()["calibration"]][:2]
    a = otcache.calibrate(pipe, prompts, STEPS, recipe=RECIPE, progress=False, **demo.CALL)
    b = otcache.calibrate(loop, prompts, STEPS, recipe=RECIPE, progress=False)
    np.testing.assert_allclose(a.grid, b.grid)
    assert a.nfe == b.nfe
    for theirs, ours in zip(a.ladder, b.ladder, strict=True):
        assert ours.schedule.computed == theirs.schedule.computed
        assert ours.schedule.forecaster == theirs.schedule.forecaster
        np.testing.assert_allclose(ours.error, theirs.error, rtol=1e-4)
        assert len(ours.schedule.branch_weights) == len(theirs.schedule.branch_weights)
        np.testing.assert_allclose(_numbers(ours.schedule), _numbers(theirs.schedule), atol=1e-4)
    fitted = [r.schedule for r in b.ladder if r.schedule.forecaster == "fitted"]
    assert fitted
    assert all(s.branch_weights for s in fitted)


def test_it_runs_as_the_pipeline_does(pipe: Any) -> None:
    loop, prompts = _example().guided_loop(pipe), ["a large red circle", "a small blue square"]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    call = {**demo.CALL, "num_inference_steps": STEPS, "output_type": "latent"}
    theirs = pipe(prompt=prompts, generator=generators, **call)[0]
    with torch.no_grad():
        torch.testing.assert_close(loop(prompts, [3, 4], STEPS), theirs, atol=1e-4, rtol=1e-4)
