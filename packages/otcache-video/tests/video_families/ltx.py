"""LTX: packed latents, guidance as one batch of two."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.parts import absent, both, noise, ones, picture, signed

_NO_TEXT = absent("text_encoder", "tokenizer")
_SIZE = {"height": 32, "width": 32, "num_frames": 9}


def _vae() -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )


def _transformer() -> Any:
    torch.manual_seed(0)
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )


def _case(pipeline: Any, **more: Any) -> Case:
    pipe = pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        transformer=_transformer(),
        **_NO_TEXT,
    )
    text = signed(prompt_embeds=noise(1, 16, 32))
    masks = both(prompt_attention_mask=ones(1, 16).bool())
    call = text | masks | _SIZE | {"guidance_scale": 3.0} | more
    return Case(pipe, call, ("cond_uncond",))


def text() -> Case:
    return _case(diffusers.LTXPipeline)


def image() -> Case:
    return _case(diffusers.LTXImageToVideoPipeline, image=picture(32))
