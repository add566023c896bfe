"""HunyuanVideo: guidance is embedded, true guidance makes a second call."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.parts import absent, noise, ones

_NO_TEXT = absent("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
_SIZE = {"height": 16, "width": 16, "num_frames": 9}


def _vae() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def _transformer(**config: Any) -> Any:
    torch.manual_seed(0)
    wanted: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 4),
    }
    return diffusers.HunyuanVideoTransformer3DModel(**wanted | config)


def _words() -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": noise(1, 12, 16),
        "pooled_prompt_embeds": noise(1, 8),
        "prompt_attention_mask": ones(1, 12),
    }


def text() -> Case:
    pipe = diffusers.HunyuanVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=_vae(),
        transformer=_transformer(),
        **_NO_TEXT,
    )
    return Case(pipe, _words() | _SIZE | {"guidance_scale": 6.0}, ("cond",))
