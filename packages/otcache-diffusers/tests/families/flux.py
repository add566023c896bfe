"""Flux and Flux.2: packed latents, distilled guidance, one named context per branch."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from otcache_diffusers.testing.families import Case, absent, mask, noise, random_image, vae

_TEXT = absent("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def _transformer(in_channels: int = 4, **config: Any) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=in_channels,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        **config,
    )


def _case(pipeline: Any, transformer: FluxTransformer2DModel, **call: Any) -> Case:
    pipe = pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(1), transformer=transformer, **_TEXT
    )
    size = {"height": 16, "width": 16}
    text = {"prompt_embeds": noise(1, 12, 32), "pooled_prompt_embeds": noise(1, 32)}
    branch = "cond" if pipeline is FluxPipeline else "call"
    return Case(pipe, size | text | call, (branch,))


def text() -> Case:
    return _case(FluxPipeline, _transformer(guidance_embeds=True))


def true_cfg() -> Case:
    negative = {
        "negative_prompt_embeds": -noise(1, 12, 32),
        "negative_pooled_prompt_embeds": -noise(1, 32),
    }
    case = _case(FluxPipeline, _transformer(), true_cfg_scale=3.0, **negative)
    case.branches = ("cond", "uncond")
    return case


def img2img() -> Case:
    case = _case(FluxImg2ImgPipeline, _transformer(), image=random_image(), strength=0.6)
    case.num_inference_steps = 10
    return case


def inpaint() -> Case:
    call = {"image": random_image(), "mask_image": mask(), "strength": 0.6}
    case = _case(FluxInpaintPipeline, _transformer(), **call)
    case.num_inference_steps = 10
    return case


def fill() -> Case:
    """Input: latents, masked image, and the mask, one value per pixel: 4 + 4 + 4 channels."""
    transformer = _transformer(12, out_channels=4)
    return _case(FluxFillPipeline, transformer, image=random_image(), mask_image=mask())


def control() -> Case:
    return _case(FluxControlPipeline, _transformer(8, out_channels=4), control_image=random_image())


def flux2() -> Case:
    torch.manual_seed(0)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=16,
        axes_dims_rope=[4, 4, 4, 4],
    )
    coder = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=32,
    )
    pipe = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=coder,
        transformer=transformer,
        **absent("text_encoder", "tokenizer"),
    )
    call = {"prompt_embeds": noise(1, 12, 32), "height": 16, "width": 16}
    return Case(pipe, call, ("call",))
