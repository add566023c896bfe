"""What each class of video denoisers is called with by its pipeline: shapes only."""

from __future__ import annotations

from typing import Any

from torch import bool as boolean
from torch import empty

from otcache_diffusers.architectures.blueprint import Blueprint, Config
from otcache_diffusers.architectures.calls import video_latents
from otcache_diffusers.architectures.latent import Compression, Latent

#: Text tokens that the pipelines pad to, or at most take.
WAN_TEXT, HUNYUAN_TEXT, COGVIDEOX_TEXT, LTX_TEXT = 512, 256, 226, 128
#: HunyuanVideo 1.5: of the prompt, of text to be drawn, and of a picture (none in text to video).
HUNYUAN_1_5_TEXT, GLYPHS, PICTURE = 1000, 256, 729
#: LTX's rotary embedding counts seconds: 8 frames a latent frame at 25 a second, 32 pixels a side.
LTX_SCALE = (8 / 25, 32.0, 32.0)


def wan() -> Blueprint:
    """Two calls a step, with and without the prompt."""
    return Blueprint(
        "WanTransformer3DModel",
        "AutoencoderKLWan",
        lambda vae: Compression(
            vae["z_dim"], 2 ** len(vae["temperal_downsample"]), 2 ** sum(vae["temperal_downsample"])
        ),
        _wan,
        video_latents,
        calls_per_step=2,
    )


def hunyuan_video() -> Blueprint:
    """Guidance is embedded: one call a step."""
    return Blueprint(
        "HunyuanVideoTransformer3DModel",
        "AutoencoderKLHunyuanVideo",
        _stated,
        _hunyuan_video,
        video_latents,
    )


def hunyuan_video_1_5() -> Blueprint:
    """Two calls a step; latents are joined by those of a picture and a mask, empty for text to video."""
    return Blueprint(
        "HunyuanVideo15Transformer3DModel",
        "AutoencoderKLHunyuanVideo15",
        _stated,
        _hunyuan_video_1_5,
        video_latents,
        cell=1,
        calls_per_step=2,
    )


def cogvideox() -> Blueprint:
    """Both branches of guidance are a batch of two: one call a step."""
    return Blueprint(
        "CogVideoXTransformer3DModel",
        "AutoencoderKLCogVideoX",
        lambda vae: Compression(
            vae["latent_channels"],
            2 ** (len(vae["block_out_channels"]) - 1),
            int(vae["temporal_compression_ratio"]),
        ),
        _cogvideox,
        video_latents,
    )


def ltx() -> Blueprint:
    """A latent pixel is a token; both branches of guidance are a batch of two: one call a step."""
    return Blueprint(
        "LTXVideoTransformer3DModel",
        "AutoencoderKLLTXVideo",
        lambda vae: Compression(
            vae["latent_channels"],
            vae["patch_size"] * 2 ** sum(vae["spatio_temporal_scaling"]),
            vae["patch_size_t"] * 2 ** sum(vae["spatio_temporal_scaling"]),
        ),
        _ltx,
        video_latents,
        cell=1,
    )


def _stated(vae: Config) -> Compression:
    return Compression(
        vae["latent_channels"],
        vae["spatial_compression_ratio"],
        vae["temporal_compression_ratio"],
    )


def _wan(config: Config, latent: Latent) -> dict[str, Any]:
    return {
        "hidden_states": empty(video_latents(latent)),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, WAN_TEXT, config["text_dim"]),
    }


def _hunyuan_video(config: Config, latent: Latent) -> dict[str, Any]:
    return {
        "hidden_states": empty(video_latents(latent)),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, HUNYUAN_TEXT, config["text_embed_dim"]),
        "encoder_attention_mask": empty(1, HUNYUAN_TEXT, dtype=boolean),
        "pooled_projections": empty(1, config["pooled_projection_dim"]),
        "guidance": empty(1) if config.get("guidance_embeds") else None,
    }


def _hunyuan_video_1_5(config: Config, latent: Latent) -> dict[str, Any]:
    size = video_latents(latent)[2:]
    return {
        "hidden_states": empty(1, config["in_channels"], *size),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, HUNYUAN_1_5_TEXT, config["text_embed_dim"]),
        "encoder_attention_mask": empty(1, HUNYUAN_1_5_TEXT, dtype=boolean),
        "encoder_hidden_states_2": empty(1, GLYPHS, config["text_embed_2_dim"]),
        "encoder_attention_mask_2": empty(1, GLYPHS, dtype=boolean),
        "image_embeds": empty(1, PICTURE, config["image_embed_dim"]),
    }


def _cogvideox(config: Config, latent: Latent) -> dict[str, Any]:
    tokens = latent.frames * (latent.height // 2) * (latent.width // 2)
    angles = empty(tokens, config["attention_head_dim"])
    rotary = config.get("use_rotary_positional_embeddings")
    return {
        "hidden_states": empty(2, latent.frames, latent.channels, latent.height, latent.width),
        "timestep": empty(2),
        "encoder_hidden_states": empty(2, COGVIDEOX_TEXT, config["text_embed_dim"]),
        "image_rotary_emb": (angles, angles) if rotary else None,
    }


def _ltx(config: Config, latent: Latent) -> dict[str, Any]:
    tokens = latent.frames * latent.height * latent.width
    return {
        "hidden_states": empty(2, tokens, config["in_channels"]),
        "timestep": empty(2),
        "encoder_hidden_states": empty(2, LTX_TEXT, config["caption_channels"]),
        "encoder_attention_mask": empty(2, LTX_TEXT),
        "num_frames": latent.frames,
        "height": latent.height,
        "width": latent.width,
        "rope_interpolation_scale": LTX_SCALE,
    }
