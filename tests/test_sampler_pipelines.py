"""Calibrate, plan and accelerate under every sampler: a tiny Stable Diffusion without images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)

import otcache
from otcache.media import run_once
from otcache_core.errors import OtcacheNotice

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
N = 8
RECIPE = otcache.Recipe(anchor_trials=2, climb_trials=1, cost_samples=1, ladder=(3, 5))
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V = BETAS | {"prediction_type": "v_prediction", "clip_sample": False}

#: What makes the scheduler, and the positions of N steps.
SAMPLERS: dict[str, tuple[Callable[[], Any], int]] = {
    "euler": (lambda: EulerDiscreteScheduler(**BETAS), N),
    "ancestral": (lambda: EulerAncestralDiscreteScheduler(**BETAS), N),
    "heun": (lambda: HeunDiscreteScheduler(**BETAS), 2 * N - 1),
    "ddim": (lambda: DDIMScheduler(clip_sample=False, **BETAS), N),
    "ddim v": (lambda: DDIMScheduler(**V), N),
    "ddim v, zero terminal signal": (
        lambda: DDIMScheduler(**V, rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        N,
    ),
    "pndm": (lambda: PNDMScheduler(skip_prk_steps=True, **BETAS), N + 1),
    "dpm++2m": (lambda: DPMSolverMultistepScheduler(**BETAS), N),
    "dpm++ sde": (
        lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **BETAS),
        N,
    ),
    "unipc": (lambda: UniPCMultistepScheduler(**BETAS), N),
    "lcm": (lambda: LCMScheduler(clip_sample=False, **BETAS), N),
}


class Pipe(StableDiffusionPipeline):
    """Stable Diffusion whose texts are encoded as noise of their own."""

    def encode_prompt(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        texts = [prompt] if isinstance(prompt, str) else prompt
        seeds = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
        made = torch.cat([torch.randn(1, 6, 32, generator=seed) for seed in seeds])
        return made, -made


def _pipe(scheduler: Any) -> Pipe:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=32,
        norm_num_groups=1,
    )
    absent = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    )
    pipe = Pipe(unet=unet, scheduler=scheduler, requires_safety_checker=False, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sample(pipe: Pipe) -> torch.Tensor:
    return pipe(
        "held out",
        num_inference_steps=N,
        generator=torch.Generator().manual_seed(9),
        output_type="latent",
        return_dict=False,
    )[0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_calibrated_planned_and_accelerated(
    name: str, recwarn: pytest.WarningsRecorder
) -> None:
    build, positions = SAMPLERS[name]
    pipe = _pipe(build())
    made = otcache.calibrate(pipe, ["a", "b"], N, recipe=RECIPE, progress=False)
    said = [str(w.message) for w in recwarn if issubclass(w.category, OtcacheNotice)]
    assert [text for text in said if "no weights are fitted" in text] == []
    assert made.num_steps == positions
    policy = otcache.plan(made)
    assert "fitted" in {rung.schedule.forecaster for rung in made.ladder}
    full = _sample(pipe)
    for budget in (4, positions):
        with otcache.accelerate(pipe, policy, budget=budget) as run:
            ours = _sample(pipe)
        assert run.report.computed == {"call": budget}
        assert run.report.skipped == ({"call": positions - budget} if budget < positions else {})
        assert run.report.warnings == []
        assert torch.isfinite(ours).all()
        assert torch.equal(ours, full) == (budget == positions)


def test_a_policy_of_heun_is_run_with_the_steps_that_were_asked_for() -> None:
    pipe = _pipe(HeunDiscreteScheduler(**BETAS))
    policy = otcache.plan(otcache.calibrate(pipe, ["a"], N, recipe=RECIPE, progress=False))
    assert (policy.num_steps, policy.provenance.inference_steps) == (2 * N - 1, N)
    done = run_once(pipe, policy, 5, "a", strict=True)
    assert (done.report.computed, done.report.skipped) == ({"call": 5}, {"call": 2 * N - 6})
