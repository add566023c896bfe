"""Labelled images: glyphs as the demo model was trained on, scenes that show none, and distortions."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from demo_models.scenes import SIDE, Scene, Thing, render, training_scenes
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from otcache_diffusers.metrics.legible import CLASSES

NONE = len(CLASSES) - 1
OTHERS = ("shape", "pair", "emoji")
NONE_SHARE = 0.2
EMPTY_SHARE = 0.05
"""Share of the images without a glyph that are a plain background."""
OFFSET, RADII = 5.0, (18.0, 23.0)
"""A glyph's centre is at most OFFSET pixels from the middle; the demo's radius is 21."""
LATENT_NOISE = 0.8
"""Largest standard deviation of the noise on latents, whose own is 1: glyphs stay legible."""
DROWNED_SHARE, DROWNED_NOISE = 0.03, 3.0
DEGREES, STRETCH, SHIFT = 5.0, 0.04, 0.06
"""Largest rotation, stretch along an axis, and shift as a share of half the image."""
NOISE = 0.06


@dataclass(frozen=True)
class Pool:
    """Images (n, 3, 64, 64) in uint8 and the index of each one's class, (n,)."""

    images: Tensor
    labels: Tensor


def label(scene: Scene) -> int:
    """Return the index of the scene's glyph in `CLASSES`, the last one if there is none."""
    return CLASSES.index(scene.things[0].name) if scene.tag == "glyph" else NONE


def labelled_scenes(seed: int, others: tuple[str, ...] = OTHERS) -> Iterator[Scene]:
    """Yield glyphs, moved and scaled a little, and with NONE_SHARE scenes that show none."""
    rng = random.Random(seed)
    glyphs = training_scenes(seed, ("glyph",))
    rest = training_scenes(seed, others)
    while True:
        if rng.random() >= NONE_SHARE:
            scene = next(glyphs)
            yield replace(scene, things=(_moved(scene.things[0], rng),))
        else:
            scene = next(rest)
            yield replace(scene, things=()) if rng.random() < EMPTY_SHARE else scene


def _moved(thing: Thing, rng: random.Random) -> Thing:
    x, y = (SIDE / 2 + rng.uniform(-OFFSET, OFFSET) for _ in range(2))
    return replace(thing, centre=(x, y), radius=rng.uniform(*RADII))


def render_pool(scenes: Iterator[Scene], count: int, sprites: Mapping[str, Image.Image]) -> Pool:
    """Render `count` scenes with their labels."""
    chosen = list(islice(scenes, count))
    pixels = np.stack([np.asarray(render(scene, sprites)) for scene in chosen])
    labels = torch.tensor([label(scene) for scene in chosen])
    return Pool(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)


def reconstructed(vae: AutoencoderKL, pool: Pool, generator: torch.Generator) -> Pool:
    """Pass a pool through the autoencoder, with noise of up to LATENT_NOISE on the latents.

    This gives the blur and the specks of generated images. A few images drown in noise: they show no
    glyph any more.
    """
    amounts = LATENT_NOISE * torch.rand(len(pool.labels), generator=generator)
    drowned = torch.rand(len(pool.labels), generator=generator) < DROWNED_SHARE
    amounts = torch.where(drowned, DROWNED_NOISE, amounts)
    labels = torch.where(drowned, NONE, pool.labels)
    return Pool(reconstruct(vae, pool.images, amounts, generator), labels)


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKL, images: Tensor, amounts: Tensor, generator: torch.Generator
) -> Tensor:
    """Encode and decode uint8 images (n, 3, 64, 64), with noise of `amounts` (n,) between."""
    parts = []
    for chunk, amount in zip(images.split(64), amounts.split(64), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(chunk.float() / 127.5 - 1.0).latent_dist.mode().float()
            specks = torch.randn(latents.shape, generator=generator) / vae.config.scaling_factor
            decoded = vae.decode(latents + amount[:, None, None, None] * specks).sample
        parts.append(((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Distort images (n, 3, 64, 64) in [0, 1], each in its own way, and stay in [0, 1]."""
    x = _place(images, generator)
    x = _colours(x, generator)
    x = torch.lerp(x, _blurred(x), _uniform(len(x), 0.0, 1.0, generator))
    noise = torch.randn(x.shape, generator=generator)
    return (x + _uniform(len(x), 0.0, NOISE, generator) * noise).clamp(0.0, 1.0)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def _place(x: Tensor, generator: torch.Generator) -> Tensor:
    angle = math.radians(DEGREES) * (2 * torch.rand(len(x), generator=generator) - 1)
    stretch = 1 + STRETCH * (2 * torch.rand(len(x), 2, generator=generator) - 1)
    shift = SHIFT * (2 * torch.rand(len(x), 2, generator=generator) - 1)
    turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), dim=1)
    theta = torch.cat((turn.view(-1, 2, 2) * stretch[:, :, None], shift[:, :, None]), dim=2)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


def _colours(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mix up channels, invert half of the images, and pull contrast and brightness."""
    order = torch.rand(len(x), 3, generator=generator).argsort(dim=1)
    x = x.gather(1, order[:, :, None, None].expand_as(x))
    x = torch.where(_uniform(len(x), 0.0, 1.0, generator) < 0.5, x, 1.0 - x)
    contrast = _uniform(len(x), 0.7, 1.0, generator)
    return contrast * x + (1.0 - contrast) * _uniform(len(x), 0.0, 1.0, generator)


def _blurred(x: Tensor) -> Tensor:
    for _ in range(2):
        x = avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return x
