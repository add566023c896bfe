"""Cascades of pixel-space stages: DeepFloyd IF; each stage has a schedule of its own."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)

from otcache_diffusers.testing.families import Case, absent, noise, random_image, signed


def _unet(in_channels: int, **config: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(4, 8),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=in_channels,
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=2,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        norm_num_groups=1,
        **config,
    )


def _ddpm() -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", thresholding=True, variance_type="learned_range"
    )


def _case(pipeline: Any, unet: UNet2DConditionModel, call: dict[str, Any], **parts: Any) -> Case:
    rest = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "watermarker")
    pipe = pipeline(
        unet=unet, scheduler=_ddpm(), requires_safety_checker=False, **absent(*rest), **parts
    )
    text = signed(prompt_embeds=noise(1, 12, 32))
    case = Case(pipe, text | call | {"guidance_scale": 4.0}, ("call",), "unet")
    case.output_type = "pt"
    return case


def base() -> Case:
    return _case(IFPipeline, _unet(3), {})


def super_resolution() -> Case:
    unet = _unet(6, class_embed_type="timestep")
    call = {"image": random_image(8), "height": 16, "width": 16}
    return _case(IFSuperResolutionPipeline, unet, call, image_noising_scheduler=_ddpm())
