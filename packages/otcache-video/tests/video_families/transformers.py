"""Video transformers of one family each: CogVideoX, Mochi."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLMochi,
    CogVideoXDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.parts import absent, both, noise, ones, signed

_NO_TEXT = absent("text_encoder", "tokenizer")


def _cog_vae() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


def _cog_transformer(**config: Any) -> Any:
    torch.manual_seed(0)
    wanted: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 2,
        "text_embed_dim": 32,
        "num_layers": 1,
        "sample_width": 2,
        "sample_height": 2,
        "sample_frames": 9,
        "max_text_seq_length": 16,
    }
    return diffusers.CogVideoXTransformer3DModel(**wanted | config)


def cog_video() -> Case:
    scheduler = CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    pipe = diffusers.CogVideoXPipeline(
        scheduler=scheduler, vae=_cog_vae(), transformer=_cog_transformer(), **_NO_TEXT
    )
    call = signed(prompt_embeds=noise(1, 16, 32)) | {"height": 16, "width": 16, "num_frames": 8}
    return Case(pipe, call | {"guidance_scale": 6.0, "max_sequence_length": 16}, ("cond_uncond",))


def mochi() -> Case:
    torch.manual_seed(0)
    transformer = diffusers.MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae = AutoencoderKLMochi(
        latent_channels=12,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    pipe = diffusers.MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        transformer=transformer,
        **_NO_TEXT,
    )
    text = signed(prompt_embeds=noise(1, 16, 32))
    masks = both(prompt_attention_mask=ones(1, 16).bool())
    size = {"height": 16, "width": 16, "num_frames": 7}
    return Case(pipe, text | masks | size | {"guidance_scale": 4.5}, ("cond_uncond",))
