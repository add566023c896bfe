"""Sample sheets: clips drawn by the real pipeline as strips of frames, with their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .prompts import make_prompts
from .scenes import FRAMES, SIDE
from .text import MAX_TOKENS

SHOWN = (0, 2, 4, 6, 8)
"""Frames of a strip."""
MARGIN = 8
CAPTION_HEIGHT = 30
GUIDANCE = 1.0
TITLES = {
    "heldout": "Prompts held out from calibration",
    "novel": "Novel: compositions never trained",
}


def draw_sheet(pipeline: WanPipeline, path: Path, roles: tuple[str, ...]) -> None:
    """Write a sheet of the prompts of `roles`, 30 steps each."""
    prompts = make_prompts()
    rows = []
    for role in roles:
        texts = [prompt["text"] for prompt in prompts[role]]
        rows.append((TITLES[role], list(zip(texts, sample(pipeline, texts), strict=True))))
    make_sheet(rows).quantize(192).save(path, optimize=True)


def sample(
    pipeline: WanPipeline,
    texts: Sequence[str],
    steps: int = 30,
    seed: int = 0,
    guidance: float = GUIDANCE,
) -> NDArray[np.float32]:
    """Draw one clip for each text, (n, 9, 48, 48, 3) in [0, 1]; clip k has the noise of seed + k."""
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(texts))]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        list(texts),
        negative_prompt=[""] * len(texts),
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=steps,
        max_sequence_length=MAX_TOKENS,
        guidance_scale=guidance,
        generator=generators,
    ).frames


def make_sheet(
    rows: Sequence[tuple[str, Sequence[tuple[str, NDArray[np.float32]]]]], columns: int = 3
) -> Image.Image:
    """Lay out titled groups of (caption, clip), `columns` strips to a line."""
    wide, high = SIDE * len(SHOWN) + MARGIN, SIDE + CAPTION_HEIGHT
    lines = sum(-(-len(items) // columns) for _, items in rows)
    size = (columns * wide + MARGIN, lines * high + 26 * len(rows) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for title, items in rows:
        draw.text((MARGIN, top), title, fill="black", font=_font(13))
        top += 26
        for index, (caption, clip) in enumerate(items):
            left, upper = MARGIN + index % columns * wide, top + index // columns * high
            sheet.paste(_strip(clip), (left, upper))
            text = "\n".join(textwrap.wrap(caption, 48))
            draw.multiline_text(
                (left, upper + SIDE + 1), text, fill="black", font=_font(9), spacing=1
            )
        top += -(-len(items) // columns) * high
    return sheet


def _strip(clip: NDArray[np.float32]) -> Image.Image:
    frames = np.concatenate([clip[index] for index in SHOWN], axis=1)
    return Image.fromarray((255.0 * frames).round().astype(np.uint8))


def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
