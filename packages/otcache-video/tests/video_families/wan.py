"""Wan and what descends from it; UniPC with a flow shift, as they ship."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.families import absent, noise, random_image, signed
from video_families import eyes

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


def diffusion_forcing() -> Case:
    """Every latent frame has a time and a scheduler of its own: the pipeline's scheduler never steps."""
    net = transformer(kind=diffusers.SkyReelsV2Transformer3DModel, inject_sample_info=False)
    pipe = diffusers.SkyReelsV2DiffusionForcingPipeline(
        scheduler=unipc(8.0), vae=vae(), transformer=net, **_NO_TEXT
    )
    size = SIZE | {"base_num_frames": 5, "guidance_scale": 4.0}
    return Case(pipe, words() | size | {"prompt": None}, GUIDED)


def image() -> Case:
    """Return a pipeline with the image in further channels, and its embedding beside the text's."""
    net = transformer(in_channels=36, image_dim=4, added_kv_proj_dim=24)
    pipe = diffusers.WanImageToVideoPipeline(
        scheduler=unipc(), vae=vae(), transformer=net, **_NO_TEXT, **_eyes()
    )
    return Case(pipe, words() | SIZE | {"image": random_image(), "guidance_scale": 4.0}, GUIDED)


def _eyes() -> dict[str, Any]:
    return {"image_encoder": eyes.clip_vision(4), "image_processor": eyes.Reader()}


def image_experts() -> Case:
    """Wan 2.2 I2V A14B: as for text, without an embedding of the image."""
    pipe = diffusers.WanImageToVideoPipeline(
        scheduler=unipc(),
        vae=vae(),
        transformer=transformer(in_channels=36),
        transformer_2=transformer(1, in_channels=36),
        boundary_ratio=0.8,
        **_NO_TEXT,
    )
    call = words() | SIZE | {"image": random_image(), "guidance_scale": 4.0}
    return Case(pipe, call, GUIDED, others=("transformer_2",))


def vace() -> Case:
    kind = diffusers.WanVACETransformer3DModel
    net = transformer(kind=kind, num_layers=2, vace_layers=[0], vace_in_channels=96)
    pipe = diffusers.WanVACEPipeline(scheduler=unipc(), vae=vae(), transformer=net, **_NO_TEXT)
    return Case(pipe, words() | SIZE | {"guidance_scale": 4.0}, GUIDED)


def tokens() -> Case:
    """Wan 2.2 TI2V 5B from text: every token has a time of its own."""
    pipe = diffusers.WanPipeline(
        scheduler=unipc(5.0),
        vae=vae(),
        transformer=transformer(),
        expand_timesteps=True,
        **_NO_TEXT,
    )
    return Case(pipe, words() | SIZE | {"guidance_scale": 5.0}, GUIDED)


def image_tokens() -> Case:
    """Wan 2.2 TI2V 5B from an image: tokens of the first frame stay at time 0."""
    pipe = diffusers.WanImageToVideoPipeline(
        scheduler=unipc(5.0),
        vae=vae(),
        transformer=transformer(),
        expand_timesteps=True,
        **_NO_TEXT,
    )
    return Case(pipe, words() | SIZE | {"image": random_image(), "guidance_scale": 5.0}, GUIDED)


def video() -> Case:
    pipe = diffusers.WanVideoToVideoPipeline(
        scheduler=unipc(), vae=vae(), transformer=transformer(), **_NO_TEXT
    )
    size = {"height": 16, "width": 16, "strength": 0.75}
    call = words() | size | {"video": [random_image()[0]] * 5, "guidance_scale": 4.0}
    return Case(pipe, call, ("call", "call#2"), num_inference_steps=8)


def sky_reels_image() -> Case:
    net = transformer(
        kind=diffusers.SkyReelsV2Transformer3DModel,
        in_channels=36,
        image_dim=4,
        added_kv_proj_dim=24,
    )
    pipe = diffusers.SkyReelsV2ImageToVideoPipeline(
        scheduler=unipc(8.0), vae=vae(), transformer=net, **_NO_TEXT, **_eyes()
    )
    call = words() | SIZE | {"image": random_image(), "guidance_scale": 4.0}
    return Case(pipe, call, GUIDED)
