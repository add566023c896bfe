"""The published models this package knows, as ``otcache_provide_architectures`` offers them."""

from __future__ import annotations

from otcache_core.models import Architecture, CallCost, Canvas, Configs
from otcache_diffusers.architectures import published
from otcache_diffusers.architectures.blueprint import Blueprint
from otcache_diffusers.architectures.calls import (
    FLUX_TEXT,
    QWEN_TEXT,
    SD3_TEXT,
    SDXL_TEXT,
    flux_blueprint,
    qwen_image_blueprint,
    sd3_blueprint,
    unet_blueprint,
)


def architecture(
    name: str, blueprint: Blueprint, configs: Configs, source: str, summary: str
) -> Architecture:
    """A published model; what the user's own folder says goes before ``configs``.

    Args:
        name: as published.
        blueprint: how it is built and called.
        configs: published ones of ``denoiser`` and ``vae``.
        source: where they were published.
        summary: what is assumed about guidance and text.
    """

    def measure(canvas: Canvas, own: Configs) -> CallCost:
        return blueprint.measure(canvas, {**configs, **own})

    return Architecture(name, summary, blueprint.denoiser, source, measure)


def flux_1_dev() -> Architecture:
    """11.9 B parameters."""
    return architecture(
        "FLUX.1-dev",
        flux_blueprint(),
        published.FLUX_1_DEV,
        "black-forest-labs/FLUX.1-dev",
        f"embedded guidance, {FLUX_TEXT} text tokens",
    )


def qwen_image() -> Architecture:
    """20.4 B parameters."""
    return architecture(
        "Qwen-Image",
        qwen_image_blueprint(),
        published.QWEN_IMAGE,
        "Qwen/Qwen-Image",
        f"true guidance in two calls, {QWEN_TEXT} text tokens",
    )


def sd3_5_large() -> Architecture:
    """8.1 B parameters."""
    return architecture(
        "Stable Diffusion 3.5 large",
        sd3_blueprint(),
        published.SD3_5_LARGE,
        "stabilityai/stable-diffusion-3.5-large",
        f"guidance in a batch of two, {SD3_TEXT} text tokens",
    )


def sdxl_base() -> Architecture:
    """2.57 B parameters."""
    return architecture(
        "SDXL base 1.0",
        unet_blueprint(),
        published.SDXL_BASE,
        "stabilityai/stable-diffusion-xl-base-1.0",
        f"guidance in a batch of two, {SDXL_TEXT} text tokens",
    )
