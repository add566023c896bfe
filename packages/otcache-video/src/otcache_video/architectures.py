"""Published video models at full size, measured on the meta device: no weights, no memory.

Each function returns what ``otcache_provide_architectures`` offers. The functions below them return the
arguments with which a pipeline calls its denoiser; only their shapes count.
"""

from __future__ import annotations

from typing import Any

from torch import bool as boolean
from torch import empty

from otcache_core.models import Architecture, Configs
from otcache_diffusers.architectures.blueprint import Blueprint, Compression, Config, Latent
from otcache_diffusers.architectures.models import architecture, video_latents
from otcache_video import published

#: Text tokens that the pipelines pad to, or at most take.
WAN_TEXT, HUNYUAN_TEXT, COGVIDEOX_TEXT, LTX_TEXT = 512, 256, 226, 128
#: HunyuanVideo 1.5: tokens of the prompt, of text to be drawn, and of an image (none in text to video).
HUNYUAN_1_5_TEXT, GLYPHS, IMAGE = 1000, 256, 729
#: LTX's rotary embedding counts seconds: 8 frames a latent frame at 25 a second, 32 pixels a side.
LTX_SCALE = (8 / 25, 32.0, 32.0)


def wan_2_1_1_3b() -> Architecture:
    """Return Wan 2.1 1.3B: 1.42 B parameters."""
    return _wan("1 1.3B", "Wan2.1-T2V-1.3B", published.WAN_2_1_1_3B)


def wan_2_1_14b() -> Architecture:
    """Return Wan 2.1 14B: 14.3 B parameters."""
    return _wan("1 14B", "Wan2.1-T2V-14B", published.WAN_14B)


def wan_2_2_a14b() -> Architecture:
    """Return Wan 2.2 A14B: 14.3 B parameters in each of two transformers; a step calls one of them."""
    note = "one of two transformers a step, and only that one is counted; "
    return _wan("2 A14B", "Wan2.2-T2V-A14B", published.WAN_14B, note)


def hunyuan_video() -> Architecture:
    """Return HunyuanVideo: 12.8 B parameters; guidance is embedded, one call per step."""
    return architecture(
        "HunyuanVideo",
        Blueprint(
            "HunyuanVideoTransformer3DModel",
            "AutoencoderKLHunyuanVideo",
            _hunyuan_compression,
            _hunyuan_video_call,
            video_latents,
        ),
        published.HUNYUAN_VIDEO,
        "tencent/HunyuanVideo",
        f"embedded guidance, {HUNYUAN_TEXT} text tokens",
    )


def hunyuan_video_1_5() -> Architecture:
    """Return HunyuanVideo 1.5: 8.3 B parameters, two calls per step."""
    return architecture(
        "HunyuanVideo 1.5",
        Blueprint(
            "HunyuanVideo15Transformer3DModel",
            "AutoencoderKLHunyuanVideo15",
            _hunyuan_compression,
            _hunyuan_video_1_5_call,
            video_latents,
            cell=1,
            calls_per_step=2,
        ),
        published.HUNYUAN_VIDEO_1_5,
        "tencent/HunyuanVideo-1.5",
        f"true guidance in two calls, {HUNYUAN_1_5_TEXT} + {GLYPHS} text tokens, full attention",
    )


def cogvideox_5b() -> Architecture:
    """Return CogVideoX 5B: 5.57 B parameters; guidance is a batch of two, one call per step."""
    return architecture(
        "CogVideoX 5B",
        Blueprint(
            "CogVideoXTransformer3DModel",
            "AutoencoderKLCogVideoX",
            lambda vae: Compression(
                vae["latent_channels"],
                2 ** (len(vae["block_out_channels"]) - 1),
                int(vae["temporal_compression_ratio"]),
            ),
            _cogvideox_call,
            video_latents,
        ),
        published.COGVIDEOX_5B,
        "THUDM/CogVideoX-5b",
        f"guidance in a batch of two, {COGVIDEOX_TEXT} text tokens",
    )


def ltx_video() -> Architecture:
    """Return LTX-Video: 1.92 B parameters; a latent pixel is a token, guidance a batch of two."""
    return architecture(
        "LTX-Video",
        Blueprint(
            "LTXVideoTransformer3DModel",
            "AutoencoderKLLTXVideo",
            lambda vae: Compression(
                vae["latent_channels"],
                vae["patch_size"] * 2 ** sum(vae["spatio_temporal_scaling"]),
                vae["patch_size_t"] * 2 ** sum(vae["spatio_temporal_scaling"]),
            ),
            _ltx_call,
            video_latents,
            cell=1,
        ),
        published.LTX_VIDEO,
        "Lightricks/LTX-Video",
        f"guidance in a batch of two, {LTX_TEXT} text tokens",
    )


def _wan(name: str, repository: str, configs: Configs, note: str = "") -> Architecture:
    """Return a Wan 2.x model, which is called twice a step, with and without the prompt."""
    blueprint = Blueprint(
        "WanTransformer3DModel",
        "AutoencoderKLWan",
        lambda vae: Compression(
            vae["z_dim"], 2 ** len(vae["temperal_downsample"]), 2 ** sum(vae["temperal_downsample"])
        ),
        _wan_call,
        video_latents,
        calls_per_step=2,
    )
    summary = f"{note}true guidance in two calls, {WAN_TEXT} text tokens"
    return architecture(f"Wan 2.{name}", blueprint, configs, f"Wan-AI/{repository}", summary)


def _hunyuan_compression(vae: Config) -> Compression:
    return Compression(
        vae["latent_channels"],
        vae["spatial_compression_ratio"],
        vae["temporal_compression_ratio"],
    )


def _wan_call(config: Config, latent: Latent) -> dict[str, Any]:
    return {
        "hidden_states": empty(video_latents(latent)),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, WAN_TEXT, config["text_dim"]),
    }


def _hunyuan_video_call(config: Config, latent: Latent) -> dict[str, Any]:
    return {
        "hidden_states": empty(video_latents(latent)),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, HUNYUAN_TEXT, config["text_embed_dim"]),
        "encoder_attention_mask": empty(1, HUNYUAN_TEXT, dtype=boolean),
        "pooled_projections": empty(1, config["pooled_projection_dim"]),
        "guidance": empty(1) if config.get("guidance_embeds") else None,
    }


def _hunyuan_video_1_5_call(config: Config, latent: Latent) -> dict[str, Any]:
    """Latents are joined by those of an image and a mask, which are empty for text to video."""
    size = video_latents(latent)[2:]
    return {
        "hidden_states": empty(1, config["in_channels"], *size),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, HUNYUAN_1_5_TEXT, config["text_embed_dim"]),
        "encoder_attention_mask": empty(1, HUNYUAN_1_5_TEXT, dtype=boolean),
        "encoder_hidden_states_2": empty(1, GLYPHS, config["text_embed_2_dim"]),
        "encoder_attention_mask_2": empty(1, GLYPHS, dtype=boolean),
        "image_embeds": empty(1, IMAGE, config["image_embed_dim"]),
    }


def _cogvideox_call(config: Config, latent: Latent) -> dict[str, Any]:
    tokens = latent.frames * (latent.height // 2) * (latent.width // 2)
    angles = empty(tokens, config["attention_head_dim"])
    rotary = config.get("use_rotary_positional_embeddings")
    return {
        "hidden_states": empty(2, latent.frames, latent.channels, latent.height, latent.width),
        "timestep": empty(2),
        "encoder_hidden_states": empty(2, COGVIDEOX_TEXT, config["text_embed_dim"]),
        "image_rotary_emb": (angles, angles) if rotary else None,
    }


def _ltx_call(config: Config, latent: Latent) -> dict[str, Any]:
    return {
        "hidden_states": empty(
            2, latent.frames * latent.height * latent.width, config["in_channels"]
        ),
        "timestep": empty(2),
        "encoder_hidden_states": empty(2, LTX_TEXT, config["caption_channels"]),
        "encoder_attention_mask": empty(2, LTX_TEXT),
        "num_frames": latent.frames,
        "height": latent.height,
        "width": latent.width,
        "rope_interpolation_scale": LTX_SCALE,
    }
