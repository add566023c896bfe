"""The published models that this package knows, and the shapes that their pipelines call them with."""

from __future__ import annotations

from typing import Any

from torch import empty

from otcache_core.models import Architecture, CallCost, Canvas, Configs
from otcache_diffusers.architectures import published
from otcache_diffusers.architectures.blueprint import Blueprint, Compression, Config, Latent


def architecture(
    name: str, blueprint: Blueprint, configs: Configs, source: str, summary: str
) -> Architecture:
    """Return a published model; the configuration in the user's own folder overrides ``configs``.

    Args:
        name: as published.
        blueprint: how it is built and called.
        configs: published ones of ``denoiser`` and ``vae``.
        source: their publication.
        summary: what is assumed about guidance and text.
    """

    def measure(canvas: Canvas, own: Configs) -> CallCost:
        return blueprint.measure(canvas, {**configs, **own})

    return Architecture(name, summary, blueprint.denoiser, source, measure)


def flux_1_dev() -> Architecture:
    """Return FLUX.1-dev, 11.9 B parameters."""
    return architecture(
        "FLUX.1-dev",
        flux_blueprint(),
        published.FLUX_1_DEV,
        "black-forest-labs/FLUX.1-dev",
        f"embedded guidance, {FLUX_TEXT} text tokens",
    )


def qwen_image() -> Architecture:
    """Return Qwen-Image, 20.4 B parameters."""
    return architecture(
        "Qwen-Image",
        qwen_image_blueprint(),
        published.QWEN_IMAGE,
        "Qwen/Qwen-Image",
        f"true guidance in two calls, {QWEN_TEXT} text tokens",
    )


def sd3_5_large() -> Architecture:
    """Return Stable Diffusion 3.5 large, 8.1 B parameters."""
    return architecture(
        "Stable Diffusion 3.5 large",
        sd3_blueprint(),
        published.SD3_5_LARGE,
        "stabilityai/stable-diffusion-3.5-large",
        f"guidance in a batch of two, {SD3_TEXT} text tokens",
    )


def sdxl_base() -> Architecture:
    """Return SDXL base 1.0, 2.57 B parameters."""
    return architecture(
        "SDXL base 1.0",
        unet_blueprint(),
        published.SDXL_BASE,
        "stabilityai/stable-diffusion-xl-base-1.0",
        f"guidance in a batch of two, {SDXL_TEXT} text tokens",
    )


#: Text tokens that the pipelines pad to, or at most take.
FLUX_TEXT, QWEN_TEXT, SD3_TEXT, SDXL_TEXT = 512, 512, 77 + 256, 77


def flux_blueprint() -> Blueprint:
    """Pack latents two by two into tokens; guidance is embedded: one call per step."""
    return Blueprint("FluxTransformer2DModel", "AutoencoderKL", _kl, _flux, _image_latents)


def qwen_image_blueprint() -> Blueprint:
    """Pack latents two by two into tokens; two calls per step, with and without the prompt."""
    return Blueprint(
        "QwenImageTransformer2DModel",
        "AutoencoderKLQwenImage",
        _causal,
        _qwen_image,
        video_latents,
        calls_per_step=2,
    )


def sd3_blueprint() -> Blueprint:
    """Cut patches inside; both branches of guidance are a batch of two: one call per step."""
    return Blueprint("SD3Transformer2DModel", "AutoencoderKL", _kl, _sd3, _image_latents)


def unet_blueprint() -> Blueprint:
    """Return SDXL's, or SD 1.5's; both branches of guidance are a batch of two: one call per step."""
    return Blueprint("UNet2DConditionModel", "AutoencoderKL", _kl, _unet, _image_latents, cell=1)


def _kl(vae: Config) -> Compression:
    return Compression(vae["latent_channels"], 2 ** (len(vae["block_out_channels"]) - 1))


def _causal(vae: Config) -> Compression:
    return Compression(vae["z_dim"], 2 ** len(vae["temperal_downsample"]))


def _image_latents(latent: Latent) -> tuple[int, ...]:
    return (1, latent.channels, latent.height, latent.width)


def video_latents(latent: Latent) -> tuple[int, ...]:
    """Return the shape that a video decoder takes: channels, frames, rows, columns."""
    return (1, latent.channels, latent.frames, latent.height, latent.width)


def _flux(config: Config, latent: Latent) -> dict[str, Any]:
    tokens = latent.height * latent.width // 4
    return {
        "hidden_states": empty(1, tokens, config["in_channels"]),
        "encoder_hidden_states": empty(1, FLUX_TEXT, config["joint_attention_dim"]),
        "pooled_projections": empty(1, config["pooled_projection_dim"]),
        "timestep": empty(1),
        "guidance": empty(1) if config.get("guidance_embeds") else None,
        "img_ids": empty(tokens, 3),
        "txt_ids": empty(FLUX_TEXT, 3),
    }


def _qwen_image(config: Config, latent: Latent) -> dict[str, Any]:
    rows, columns = latent.height // 2, latent.width // 2
    return {
        "hidden_states": empty(1, rows * columns, config["in_channels"]),
        "encoder_hidden_states": empty(1, QWEN_TEXT, config["joint_attention_dim"]),
        "encoder_hidden_states_mask": None,
        "timestep": empty(1),
        "img_shapes": [[(1, rows, columns)]],
    }


def _sd3(config: Config, latent: Latent) -> dict[str, Any]:
    return {
        "hidden_states": empty(2, latent.channels, latent.height, latent.width),
        "encoder_hidden_states": empty(2, SD3_TEXT, config["joint_attention_dim"]),
        "pooled_projections": empty(2, config["pooled_projection_dim"]),
        "timestep": empty(2),
    }


def _unet(config: Config, latent: Latent) -> dict[str, Any]:
    arguments = {
        "sample": empty(2, latent.channels, latent.height, latent.width),
        "timestep": empty(1),
        "encoder_hidden_states": empty(2, SDXL_TEXT, config["cross_attention_dim"]),
    }
    if config.get("addition_embed_type") != "text_time":
        return arguments
    times = 6
    pooled = config["projection_class_embeddings_input_dim"]
    pooled -= times * config["addition_time_embed_dim"]
    added = {"text_embeds": empty(2, pooled), "time_ids": empty(2, times)}
    return {**arguments, "added_cond_kwargs": added}
