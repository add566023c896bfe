"""Sample sheets: pictures drawn by the real pipeline, with their captions under them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from diffusers import FluxPipeline
from PIL import Image, ImageDraw, ImageFont

from .scenes import SIDE
from .text import MAX_TOKENS

SCALE = 2
MARGIN = 8
CAPTION_HEIGHT = 44
GUIDANCE = 3.0
"""true_cfg_scale of the samples: stars and emoji come out sharper than without guidance."""


def sample(
    pipeline: FluxPipeline, texts: Sequence[str], steps: int = 30, seed: int = 0
) -> list[Image.Image]:
    """Draw one picture for each text; picture k starts from the noise of seed + k."""
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(texts))]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        list(texts),
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        max_sequence_length=MAX_TOKENS,
        true_cfg_scale=GUIDANCE,
        negative_prompt=[""] * len(texts),
        generator=generators,
    ).images


def make_sheet(
    rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]], columns: int = 8
) -> Image.Image:
    """Lay out titled groups of (caption, picture), `columns` to a line."""
    cell = SIDE * SCALE + MARGIN
    lines = sum(-(-len(items) // columns) for _, items in rows)
    size = (columns * cell + MARGIN, lines * (cell + CAPTION_HEIGHT) + 26 * len(rows) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for title, items in rows:
        draw.text((MARGIN, top), title, fill="black", font=_font(15, bold=True))
        top += 26
        for index, (caption, picture) in enumerate(items):
            left = MARGIN + (index % columns) * cell
            upper = top + index // columns * (cell + CAPTION_HEIGHT)
            _put(sheet, draw, (left, upper), caption, picture)
        top += -(-len(items) // columns) * (cell + CAPTION_HEIGHT)
    return sheet


def _put(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    caption: str,
    picture: Image.Image,
) -> None:
    left, top = corner
    side = SIDE * SCALE
    sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=(190, 190, 190))
    text = "\n".join(textwrap.wrap(caption, 22))
    draw.multiline_text((left, top + side + 2), text, fill="black", font=_font(10), spacing=1)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
