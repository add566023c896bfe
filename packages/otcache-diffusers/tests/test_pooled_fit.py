"""A closed-loop fit does not depend on how many samples one pipeline call holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sampler_cases import with_prompts
from test_evaluator import GRID, Field, _sample
from test_evaluator import N as STEPS
from tiny import flux
from tiny import with_prompts as flux_with_prompts

from otcache_core.contracts import Evaluation, SampleRequest
from otcache_core.loop import Loop
from otcache_core.recurrence import Recurrence
from otcache_core.schedule import Schedule
from otcache_core.trajectory import Trajectory
from otcache_diffusers.evaluation.evaluator import PipelineEvaluator
from otcache_diffusers.recording.probe import TorchProbe

SAMPLES = 5
PROMPTS, SEEDS = ("a", "b", "c", "d", "e"), (0, 1, 2, 3, 4)


def _close(some: Evaluation, other: Evaluation, tolerance: float) -> None:
    """Compare schedules, weights of every branch, errors and cost."""
    assert some.nfe == other.nfe
    np.testing.assert_allclose(some.errors, other.errors, rtol=tolerance, atol=1e-12)
    for a, b in zip(some.schedules, other.schedules, strict=True):
        assert (a.computed, a.forecaster) == (b.computed, b.forecaster)
        assert [name for name, _ in a.branch_weights] == [name for name, _ in b.branch_weights]
        tables = [(a.weights, b.weights)]
        tables += [(dict(a.branch_weights)[k], rows) for k, rows in b.branch_weights]
        for mine, theirs in tables:
            for row, wanted in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(row, wanted, rtol=tolerance, atol=tolerance)


def _loop_evaluator(field: Field, batch_size: int) -> PipelineEvaluator:
    seen = []

    def sample(prompts: list[str], seeds: list[int], n: int) -> torch.Tensor:
        seen.append(len(prompts))
        assert len(prompts) <= batch_size
        return _sample(field, seeds)

    request = SampleRequest(PROMPTS, SEEDS, STEPS, batch_size=batch_size)
    blank = np.zeros((STEPS + 1, 6), np.float32)
    runs = [Trajectory(GRID, blank, blank[:STEPS]) for _ in range(SAMPLES)]
    return PipelineEvaluator(Loop(sample, field, grid=GRID), request, runs)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_smaller_batches_fit_the_same_weights_at_the_same_cost(batch_size: int) -> None:
    schedules = [Schedule(STEPS, s) for s in [(0, 2, 5), (0, 2, 4), (0, 1, 2, 3, 4, 6), (0,)]]
    schedules.append(Schedule.full(STEPS))
    whole = _loop_evaluator(Field(), 20).evaluate(schedules, fit=True)
    field = Field()
    built = _loop_evaluator(field, batch_size)
    built.evaluate([Schedule.full(STEPS)])
    field.rows = 0
    batched = built.evaluate(schedules, fit=True)
    assert batched.nfe == field.rows  # nothing is computed twice
    _close(batched, whole, 1e-7)
    np.testing.assert_allclose(batched.grams, whole.grams, rtol=1e-6, atol=1e-15)


def test_every_sample_changes_the_weights() -> None:
    schedules = [Schedule(STEPS, (0, 2, 5))]
    built = _loop_evaluator(Field(), 2)
    all_of_them = built.evaluate(schedules, fit=True).schedules[0]
    first_batch = built.evaluate(schedules, fit=True, samples=[0, 1]).schedules[0]
    assert np.abs(np.subtract(all_of_them.weights[0], first_batch.weights[0])).max() > 1e-4


def test_a_span_whose_end_no_output_moves_reuses_in_every_batch() -> None:
    schedules, built = [Schedule(STEPS, (0, 2, 5))], _loop_evaluator(Field(), 2)
    built.evaluate([Schedule.full(STEPS)])
    still = np.array([*GRID[:3], GRID[3], GRID[3], GRID[3], *GRID[6:]])
    assert isinstance(built.recurrence, Recurrence)  # found once, and then replaced
    built._fit.recurrence = Recurrence.euler(still)
    weights = built.evaluate(schedules, fit=True).schedules[0].weights
    assert weights[1] == (0.0,)  # 2 -> 5, over which s does not change
    assert any(weights[0])
    assert any(weights[2])


def _both(pipe: Any, call: dict[str, Any], n: int, schedules: list[Schedule]) -> list[Evaluation]:
    found = []
    for batch_size in (8, 2):
        request = SampleRequest(PROMPTS, SEEDS, n, call, batch_size)
        probe = TorchProbe()
        built = probe.evaluator(pipe, request, list(probe.record(pipe, request)))
        found.append(built.evaluate(schedules, objective="latent-rmse", fit=True))
    return found


def test_with_guidance_every_branch_is_fitted_on_all_samples() -> None:
    case = flux(cfg=True)
    call = {k: v for k, v in case.call.items() if not k.endswith("embeds")}
    schedules = [Schedule(6, (0, 1, 3)), Schedule(6, (0, 1, 4))]
    whole, batched = _both(
        flux_with_prompts(case).pipe, call | {"negative_prompt": ""}, 6, schedules
    )
    assert [name for name, _ in whole.schedules[0].branch_weights] == ["cond", "uncond"]
    _close(batched, whole, 2e-3)


@pytest.mark.parametrize("name", ["ddim", "dpm++2m"])
def test_a_sampler_with_memory_is_fitted_on_all_samples(name: str) -> None:
    pipe, call = with_prompts(name)
    whole, batched = _both(pipe, call, 8, [Schedule(8, (0, 1, 2, 5)), Schedule(8, (0, 1, 2, 4, 5))])
    assert any(whole.schedules[0].weights[-1])
    _close(batched, whole, 2e-3)


def test_images_of_all_batches_are_compared() -> None:
    case = flux(cfg=True)
    call = {k: v for k, v in case.call.items() if not k.endswith("embeds")}
    request = SampleRequest(PROMPTS, SEEDS, 6, {**call, "negative_prompt": ""}, 2)
    probe, pipe = TorchProbe(), flux_with_prompts(case).pipe
    built = probe.evaluator(pipe, request, list(probe.record(pipe, request)))
    if "rmse" not in built.objectives:
        pytest.skip("this pipeline decodes no images")
    fitted = built.evaluate([Schedule(6, (0, 1, 3))], objective="rmse", fit=True)
    assert fitted.errors.shape == (1, SAMPLES)
    assert (fitted.errors > 0).all()
