"""Accuracy of the glyph reader on renderings, on reconstructions, and on the pipeline's images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from demo_models.image_model import sample
from demo_models.scenes import Scene, any_scenes, is_novel, training_scenes
from diffusers import AutoencoderKL, FluxPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from otcache_diffusers.metrics.legible import CLASSES, GlyphReader

from .images import OTHERS, reconstruct, render_pool

SEED = 30_000
"""Scenes of this seed and above are never trained on."""
DECODED, NOISE = 1000, 0.2
"""How many renderings are passed through the autoencoder, and the noise on their latents."""
PER_GLYPH = 4
BUDGETS = (15, 8, 5, 3)
BATCH = 16
TITLES = {
    "fresh": f"Full runs: every glyph, {PER_GLYPH} prompts each, read as asked",
    "shipped": "Full runs: the shipped glyph prompts, read as asked",
    "other": "Full runs: the shipped prompts without a glyph, read as none",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: of `count` images, `right` were read as they should be."""

    what: str
    right: int
    count: int

    def __str__(self) -> str:
        """Return the line as Markdown."""
        share = 100 * self.right / self.count
        return f"| {self.what} | {self.right} of {self.count} | {share:.1f} % |"


@dataclass(frozen=True)
class Misread:
    """An image that is not read as its prompt asked, or not as the full run's was."""

    caption: str
    image: Image.Image


def render_rows(
    reader: GlyphReader, sprites: Mapping[str, Image.Image], vae: AutoencoderKL
) -> list[Row]:
    """Read renderings that were not trained on, plain and from the autoencoder."""
    glyphs = training_scenes(SEED, ("glyph",))
    novel = (scene for scene in any_scenes(SEED + 1, ("glyph",)) if is_novel(scene))
    others = training_scenes(SEED + 2, OTHERS)
    groups: list[tuple[str, Iterator[Scene], int]] = [
        ("glyphs", glyphs, 3600),
        ("glyphs in colours never trained", novel, 400),
        ("shapes, pairs and emoji, read as none", others, 2000),
    ]
    rows = []
    for what, scenes, count in groups:
        pool = render_pool(scenes, count, sprites)
        rows.append(_row(f"Renderings: {what}", reader, pool.images, pool.labels))
        generator = torch.Generator().manual_seed(SEED)
        some, amounts = pool.images[:DECODED], torch.full((len(pool.labels),), NOISE)
        decoded = reconstruct(vae, some, amounts[:DECODED], generator)
        rows.append(_row(f"Reconstructions: {what}", reader, decoded, pool.labels[:DECODED]))
    return rows


def _row(what: str, reader: GlyphReader, images: Tensor, labels: Tensor) -> Row:
    read = reader.read(images.permute(0, 2, 3, 1).numpy().astype(np.float32) / 255)
    right = sum(c == CLASSES[k] for c, k in zip(read, labels.tolist(), strict=True))
    return Row(what, right, len(read))


def pipeline_rows(
    reader: GlyphReader, pipeline: FluxPipeline, packaged: Sequence[tuple[str, str]]
) -> tuple[list[Row], list[Misread]]:
    """Read the pipeline's full runs (30 steps), and compare runs of fewer steps with them."""
    fresh = glyph_captions()
    shipped = [text for text, tag in packaged if tag == "glyph"]
    others = [text for text, tag in packaged if tag != "glyph"]
    rows, misread, full = [], [], {}
    for what, captions in (("fresh", fresh), ("shipped", shipped), ("other", others)):
        images = _sampled(pipeline, captions, steps=30)
        full[what] = reader.read(_array(images))
        cases = _cases(reader, captions, images, [asked(text) for text in captions])
        rows.append(Row(TITLES[what], len(captions) - len(cases), len(captions)))
        misread += cases
    for steps in BUDGETS:
        images = _sampled(pipeline, fresh, steps)
        captions = [f"{steps} steps: {text}" for text in fresh]
        cases = _cases(reader, captions, images, full["fresh"])
        what = f"Runs of {steps} steps (Euler): read as the full run"
        rows.append(Row(what, len(fresh) - len(cases), len(fresh)))
        misread += cases
    return rows, misread


def _cases(
    reader: GlyphReader,
    captions: Sequence[str],
    images: Sequence[Image.Image],
    wanted: Sequence[str],
) -> list[Misread]:
    read = zip(captions, images, reader.read(_array(images)), wanted, strict=True)
    return [Misread(f"{text}: read {c or 'none'}", p) for text, p, c, w in read if c != w]


def glyph_captions() -> list[str]:
    """Return PER_GLYPH different captions of each glyph."""
    found: dict[str, dict[str, None]] = {name: {} for name in CLASSES if name}
    for scene in any_scenes(SEED + 3, ("glyph",)):
        captions = found[scene.things[0].name]
        if len(captions) < PER_GLYPH:
            captions[scene.caption] = None
        elif all(len(group) == PER_GLYPH for group in found.values()):
            break
    return [caption for group in found.values() for caption in group]


def asked(caption: str) -> str:
    """Return the glyph that a caption asks for, or an empty text."""
    words = caption.split()
    return words[2] if words[1] in ("letter", "digit") else ""


def _sampled(pipeline: FluxPipeline, captions: Sequence[str], steps: int) -> list[Image.Image]:
    starts = range(0, len(captions), BATCH)
    parts = [sample(pipeline, captions[i : i + BATCH], steps, SEED + i) for i in starts]
    return [image for part in parts for image in part]


def _array(images: Sequence[Image.Image]) -> NDArray[np.float32]:
    return np.stack([np.asarray(p, dtype=np.float32) / 255 for p in images])
