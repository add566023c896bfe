"""Wan and what descends from it; UniPC with a flow shift, as they ship."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.parts import absent, noise, signed

_NO_TEXT = absent("text_encoder", "tokenizer")
SIZE = {"height": 16, "width": 16, "num_frames": 5}
GUIDED = ("cond", "uncond")


def vae(**config: Any) -> AutoencoderKLWan:
    """Downsamples by 4 in time and by 8 in space."""
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        **config,
    )


def unipc(shift: float = 3.0) -> UniPCMultistepScheduler:
    """Wan's own sampler."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def transformer(seed: int = 0, kind: Any = WanTransformer3DModel, **config: Any) -> Any:
    """One block."""
    torch.manual_seed(seed)
    wanted: dict[str, Any] = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 1,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }
    return kind(**wanted | config)


def words() -> dict[str, torch.Tensor]:
    """Embeddings of a prompt and a negative prompt."""
    return signed(prompt_embeds=noise(1, 12, 32))


def text() -> Case:
    pipe = diffusers.WanPipeline(
        scheduler=unipc(), vae=vae(), transformer=transformer(), **_NO_TEXT
    )
    return Case(pipe, words() | SIZE | {"guidance_scale": 4.0}, GUIDED)


def experts(boundary: float = 0.8) -> Case:
    """Wan 2.2 A14B: one transformer while t is above the boundary, the other below."""
    pipe = diffusers.WanPipeline(
        scheduler=unipc(),
        vae=vae(),
        transformer=transformer(),
        transformer_2=transformer(1),
        boundary_ratio=boundary,
        **_NO_TEXT,
    )
    call = words() | SIZE | {"guidance_scale": 4.0, "guidance_scale_2": 3.0}
    return Case(pipe, call, GUIDED, others=("transformer_2",))


def sky_reels() -> Case:
    net = transformer(kind=diffusers.SkyReelsV2Transformer3DModel)
    pipe = diffusers.SkyReelsV2Pipeline(
        scheduler=unipc(8.0), vae=vae(), transformer=net, **_NO_TEXT
    )
    return Case(pipe, words() | SIZE | {"guidance_scale": 4.0}, GUIDED)
