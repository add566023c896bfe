"""Labelled pictures: glyphs as the demo model was trained on, and scenes that show none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from demo_image.scenes import SIDE, Scene, Thing, render, training_scenes
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from otcache_diffusers.metrics.legible import CLASSES

NONE = len(CLASSES) - 1
OTHERS = ("shape", "pair", "emoji")
NONE_SHARE = 0.2
EMPTY_SHARE = 0.05
"""Share of the pictures without a glyph that are a plain background."""
SHIFT, RADII = 5.0, (18.0, 23.0)
"""A glyph's centre leaves the middle by at most SHIFT pixels; the demo's radius is 21."""
LATENT_NOISE = 0.8
"""Largest standard deviation of the noise on latents, whose own is 1: glyphs can be read still."""
DROWNED_SHARE, DROWNED_NOISE = 0.03, 3.0


@dataclass(frozen=True)
class Pool:
    """Pictures (n, 3, 64, 64) in uint8 and the index of each one's class, (n,)."""

    pictures: Tensor
    labels: Tensor


def label(scene: Scene) -> int:
    """Return the index of the scene's glyph in `CLASSES`, the last one where there is none."""
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
    x, y = (SIDE / 2 + rng.uniform(-SHIFT, SHIFT) for _ in range(2))
    return replace(thing, centre=(x, y), radius=rng.uniform(*RADII))


def render_pool(scenes: Iterator[Scene], count: int, sprites: Mapping[str, Image.Image]) -> Pool:
    """Render `count` scenes with their labels."""
    chosen = list(islice(scenes, count))
    pixels = np.stack([np.asarray(render(scene, sprites)) for scene in chosen])
    labels = torch.tensor([label(scene) for scene in chosen])
    return Pool(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)


def reconstructed(vae: AutoencoderKL, pool: Pool, generator: torch.Generator) -> Pool:
    """Pass a pool through the autoencoder, with noise of up to LATENT_NOISE on the latents.

    So it has the blur and the specks that generated pictures have. A few pictures drown in noise:
    they show no glyph any more.
    """
    amounts = LATENT_NOISE * torch.rand(len(pool.labels), generator=generator)
    drowned = torch.rand(len(pool.labels), generator=generator) < DROWNED_SHARE
    amounts = torch.where(drowned, DROWNED_NOISE, amounts)
    labels = torch.where(drowned, NONE, pool.labels)
    return Pool(reconstruct(vae, pool.pictures, amounts, generator), labels)


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKL, pictures: Tensor, amounts: Tensor, generator: torch.Generator
) -> Tensor:
    """Encode and decode uint8 pictures (n, 3, 64, 64), with noise of `amounts` (n,) between."""
    parts = []
    for chunk, amount in zip(pictures.split(64), amounts.split(64), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(chunk.float() / 127.5 - 1.0).latent_dist.mode().float()
            specks = torch.randn(latents.shape, generator=generator) / vae.config.scaling_factor
            decoded = vae.decode(latents + amount[:, None, None, None] * specks).sample
        parts.append(((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts)
