"""Cosmos Predict, without the padding mask, which would need torchvision."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.families import absent, noise, random_image, signed
from video_families import wan

_NO_TEXT = absent("text_encoder", "tokenizer")


class _Unchecked:
    """Passes everything."""

    def to(self, *args: Any) -> _Unchecked:
        return self

    def check_text_safety(self, text: str) -> bool:
        return True


def _coder() -> Any:
    """Downsamples by 4 in time and in space; the older pipelines read its ratios off its configuration."""
    torch.manual_seed(0)
    return diffusers.AutoencoderKLCosmos(
        latent_channels=16,
        encoder_block_out_channels=(8, 8, 8),
        decode_block_out_channels=(8, 8, 8),
        attention_resolutions=(8,),
        resolution=16,
        num_layers=1,
        patch_size=2,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )


def _case(pipeline: Any, scheduler: Any, channels: int, vae: Any, **more: Any) -> Case:
    torch.manual_seed(0)
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=channels,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        concat_padding_mask=False,
        extra_pos_embed_type=None,
    )
    pipe = pipeline(
        scheduler=scheduler,
        vae=vae,
        transformer=transformer,
        safety_checker=_Unchecked(),
        **_NO_TEXT,
    )
    call = signed(prompt_embeds=noise(1, 12, 32)) | wan.SIZE | {"guidance_scale": 7.0} | more
    return Case(pipe, call, ("call", "call#2"))


def second() -> Case:
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return _case(
        diffusers.Cosmos2VideoToWorldPipeline, scheduler, 17, wan.vae(), image=random_image()
    )


def first() -> Case:
    """Return a pipeline that makes a scheduler step for x_0, puts the scheduler back, and makes another."""
    scheduler = EDMEulerScheduler(sigma_max=80.0, sigma_data=1.0, final_sigmas_type="sigma_min")
    return _case(diffusers.CosmosTextToWorldPipeline, scheduler, 16, _coder())
