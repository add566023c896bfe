"""Guidance identified from recorded outputs, and weights of its branches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import flux, with_prompts

from otcache_core.contracts import SampleRequest
from otcache_core.schedule import Schedule
from otcache_diffusers.evaluation.guidance import BranchGuidance, branch_guidance
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.full_runs import Recording
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.sampler import Sampler

N = 6

Mix = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _recording(mix: Mix, branches: int = 2) -> Recording:
    generator = torch.Generator().manual_seed(0)
    recording = Recording()
    for step in range(N):
        outputs = [torch.randn(3, 4, 5, generator=generator) for _ in range(branches)]
        for b, output in enumerate(outputs):
            recording.raw[step, "cond" if b == 0 else "uncond"] = [o[None] for o in output]
        recording.guided[step] = list(mix(outputs[0], outputs[-1]))
    return recording


def test_the_guidance_scale_is_found() -> None:
    weights = branch_guidance(_recording(lambda c, u: u + 3.5 * (c - u))).weights
    assert set(weights) == {"cond", "uncond"}
    assert weights["cond"] == pytest.approx((3.5,) * N, rel=1e-6)
    assert weights["uncond"] == pytest.approx((-2.5,) * N, rel=1e-6)


@pytest.mark.parametrize("change", [1, 2, N - 1])
def test_two_scales_are_found_where_guidance_changes_once(change: int) -> None:
    recording = _recording(lambda c, u: u + 4.0 * (c - u))
    other = _recording(lambda c, u: u + 3.0 * (c - u))  # of the same outputs
    recording.guided |= {step: other.guided[step] for step in range(change, N)}
    weights = branch_guidance(recording).weights
    scales = (4.0,) * change + (3.0,) * (N - change)
    assert weights["cond"] == pytest.approx(scales, rel=1e-6)
    assert weights["uncond"] == pytest.approx([1 - w for w in scales], rel=1e-6)


def test_guidance_that_changes_at_every_step_has_no_gains() -> None:
    recording = _recording(lambda c, u: c)
    for step in range(N):
        other = _recording(lambda c, u, w=step + 1.0: u + w * (c - u))
        recording.guided[step] = other.guided[step]
    assert branch_guidance(recording).weights == {}


def test_guidance_that_is_not_linear_has_no_gains() -> None:
    def rescaled(c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        v = u + 3.5 * (c - u)
        return v * (c.norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True))

    found = branch_guidance(_recording(rescaled))
    assert found.weights == {}
    assert found.shared.startswith("guidance is not linear in their outputs (relative residual ")


def test_one_branch_has_no_gains() -> None:
    assert branch_guidance(_recording(lambda c, u: c, branches=1)) == BranchGuidance()


def test_a_branch_missing_at_some_step_has_no_gains() -> None:
    recording = _recording(lambda c, u: c + u)
    del recording.raw[2, "uncond"]
    found = branch_guidance(recording)
    assert (found.weights, found.shared) == ({}, "uncond has no output at some of the steps")


def test_outputs_of_another_size_have_no_gains() -> None:
    recording = _recording(lambda c, u: c + u)
    recording.raw = {key: [o[..., :2] for o in rows] for key, rows in recording.raw.items()}
    assert branch_guidance(recording).weights == {}


def test_every_branch_gets_its_own_weights_and_the_executor_uses_them() -> None:
    case = flux(cfg=True)
    call = {k: v for k, v in case.call.items() if not k.endswith("embeds")}
    pipe = with_prompts(case).pipe
    request = SampleRequest(("a", "b"), (0, 1), N, {**call, "negative_prompt": ""})
    probe = TorchProbe()
    evaluator = probe.evaluator(pipe, request, list(probe.record(pipe, request)))
    fitted = evaluator.evaluate([Schedule(N, (0, 1, 3))], objective="latent-rmse", fit=True)
    schedule = fitted.schedules[0]
    assert [name for name, _ in schedule.branch_weights] == ["cond", "uncond"]
    assert dict(schedule.branch_weights)["cond"] != dict(schedule.branch_weights)["uncond"]
    sampler = Sampler(pipe, request)
    full = sampler([0, 1])
    for n, own in enumerate(fitted.ran[0]):  # each sample ran with the other's weights
        again = evaluator.evaluate([own], objective="latent-rmse").errors[0]
        np.testing.assert_allclose(again[n], fitted.errors[0, n], rtol=1e-3)
        with TorchExecutor().attach(pipe, own):
            fast = sampler([0, 1])
        error = (fast - full).double().square().flatten(1).mean(1).sqrt()
        np.testing.assert_allclose(error, again, rtol=1e-3)
