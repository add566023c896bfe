"""Sheets of samples: images, or strips of a video's frames, with their captions under them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .scenes import font

MARGIN, TITLE_HEIGHT = 8, 26
SHOWN = (0, 2, 4, 6, 8)
"""Frames of a strip."""

Group = tuple[str, Sequence[tuple[str, Image.Image]]]


@dataclass(frozen=True)
class Layout:
    """How cells are laid out: columns, characters of a caption's line, sizes in pixels.

    `framed` draws a border around each cell, and titles in bold.
    """

    columns: int
    wrap: int
    caption_height: int
    caption_size: int
    title_size: int
    framed: bool


IMAGES = Layout(8, 22, 44, 10, 15, framed=True)
STRIPS = Layout(3, 48, 30, 9, 13, framed=False)


def make_sheet(groups: Sequence[Group], layout: Layout = IMAGES) -> Image.Image:
    """Lay out titled groups of (caption, image); all images have one size."""
    width, height = groups[0][1][0][1].size
    cell, line = width + MARGIN, height + layout.caption_height
    line += MARGIN if layout.framed else 0
    lines = [-(-len(items) // layout.columns) for _, items in groups]
    size = (layout.columns * cell + MARGIN, sum(lines) * line + TITLE_HEIGHT * len(groups) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    titles = font(layout.title_size, "DejaVuSans-Bold" if layout.framed else "DejaVuSans")
    top = MARGIN
    for (title, items), rows in zip(groups, lines, strict=True):
        draw.text((MARGIN, top), title, fill="black", font=titles)
        top += TITLE_HEIGHT
        for index, (caption, image) in enumerate(items):
            row, column = divmod(index, layout.columns)
            _put(sheet, (MARGIN + column * cell, top + row * line), caption, image, layout)
        top += rows * line
    return sheet


def _put(
    sheet: Image.Image, corner: tuple[int, int], caption: str, image: Image.Image, layout: Layout
) -> None:
    draw, (left, top) = ImageDraw.Draw(sheet), corner
    sheet.paste(image, corner)
    right, bottom = left + image.width, top + image.height
    if layout.framed:
        draw.rectangle((left - 1, top - 1, right, bottom), outline=(190, 190, 190))
    text = "\n".join(textwrap.wrap(caption, layout.wrap))
    at = (left, bottom + (2 if layout.framed else 1))
    small = font(layout.caption_size, "DejaVuSans")
    draw.multiline_text(at, text, fill="black", font=small, spacing=1)


def enlarged(image: Image.Image) -> Image.Image:
    """Double the size, pixel by pixel."""
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)


def strip(video: NDArray[np.float32]) -> Image.Image:
    """Put some frames of a video of values in [0, 1] side by side."""
    frames = np.concatenate([video[index] for index in SHOWN], axis=1)
    return Image.fromarray((255.0 * frames).round().astype(np.uint8))
