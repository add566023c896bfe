"""Images and videos of all methods: the cards of the page, and a grid as PNG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otcache.report.analysis import ERROR, level, shared_budgets, worst_first
from otcache.report.images import Album, Bytes, data_uri, shrink
from otcache.report.plots import INK, MUTED, SERIES, draw_png
from otcache.report.results import FULL, OURS, Cell, Results, scale_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Characters of images in a page; if they would be more, all are shown smaller.
ROOM = 24_000_000
#: Samples in the gallery.
MOST = 16
#: Pixels of the shorter side from which on images, and videos, may be halved.
HALVED, HALVED_VIDEOS = 17, 64
#: Frames below which none of a video are omitted.
FEWEST_FRAMES = 12
#: Pixels that a side of a WebP file may have.
LONGEST = 16383


def gallery(results: Results, album: Album, room: int = ROOM) -> dict[str, Any]:
    """Return plain data for the page.

    Args:
        results: labels, per-sample RMSE, and the frame rate of videos.
        album: their images or videos.
        room: characters that all of them may take.

    Returns:
        ``images``, data URIs, each image once, however many methods make it; ``cards``, each of
        ``sample``, ``full`` and ``tiles``: places in ``images``, by ``method:budget``, the method by its
        own place in ``results.methods``; those on which otcache is worst at the lowest budget first;
        ``size``, height and width of an image; ``smaller``, by which factor they are smaller than in
        the album.

        Of videos an image is a film strip of all frames. Cards have ``errors`` too, the RMSE of each
        frame by ``method:budget``; and there are ``frames``, the numbers of those shown, from 0;
        ``filmed``, how many a video has; ``rows``, frames below one another in a strip; ``rate``, shown
        frames a second. If room is short even so, there are fewer cards.
    """
    chosen = worst_first(results, shared_budgets(results)[0])[:MOST]
    for encoder in _smaller_and_smaller(results, album):
        encoder.card(chosen[0])
        if encoder.length * len(chosen) <= room:
            break
    if album.frames:
        chosen = chosen[: max(1, room // encoder.length)]
    cards = [encoder.card(sample) for sample in chosen]
    return {
        "images": list(encoder.places),
        "cards": cards,
        "size": encoder.size,
        "smaller": encoder.factor,
        **encoder.film,
    }


def _smaller_and_smaller(results: Results, album: Album) -> Iterator[_Cards]:
    """Shrink first in space; then show of videos every k-th frame alone."""
    halved = HALVED_VIDEOS if album.frames else HALVED
    encoder = _Cards(results, album)
    yield encoder
    while min(encoder.size) >= halved:
        encoder = _Cards(results, album, encoder.factor * 2)
        yield encoder
    while album.frames // (encoder.stride + 1) >= FEWEST_FRAMES:
        encoder = _Cards(results, album, encoder.factor, encoder.stride + 1)
        yield encoder


@dataclass(frozen=True)
class _Cards:
    """Encodes cards at a size.

    Attributes:
        factor: by which images are shrunk.
        stride: of a video, every so many frames are shown.
        places: data URI of an image to its place.
    """

    results: Results
    album: Album
    factor: int = 1
    stride: int = 1
    places: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._small(self.album.full[0]).shape[-3:-1]
        return height, width

    @property
    def length(self) -> int:
        """Characters so far."""
        return sum(map(len, self.places))

    @property
    def film(self) -> dict[str, Any]:
        """Data that a page of videos has besides."""
        if not self.album.frames:
            return {}
        frames = list(range(0, self.album.frames, self.stride))
        return {
            "frames": frames,
            "filmed": self.album.frames,
            "rows": rows_of(len(frames), self.size[0]),
            "rate": self.results.frames_per_second / self.stride,
        }

    def card(self, sample: int) -> dict[str, Any]:
        """Encode the images of a sample."""
        methods, stacks, full = self.results.methods, self.album.stacks, self.album.full[sample]
        images = {
            f"{place}:{budget}": stacks[method, budget][sample]
            for place, method in enumerate(methods)
            for budget in self.results.budgets
            if (method, budget) in stacks
        }
        tiles = {key: self._place(one) for key, one in images.items()}
        card: dict[str, Any] = {"sample": sample, "full": self._place(full), "tiles": tiles}
        if self.album.frames:
            step = slice(None, None, self.stride)
            card["errors"] = {
                key: frame_errors(video[step], full[step]) for key, video in images.items()
            }
        return card

    def _place(self, image: Bytes) -> int:
        small = self._small(image)
        return self.places.setdefault(
            data_uri(strip(small) if small.ndim == 4 else small), len(self.places)
        )

    def _small(self, image: Bytes) -> Bytes:
        if image.ndim == 4:
            image = image[:: self.stride]
        if self.factor == 1:
            return image
        largest = max(image.shape[-3:-1]) // self.factor
        return np.asarray(np.rint(shrink(image, largest)), np.uint8)


def rows_of(frames: int, height: int) -> int:
    """Return frames below one another in a strip: all, unless the image would be too high."""
    columns = math.ceil(frames / max(1, LONGEST // height))
    return math.ceil(frames / columns)


def strip(video: Bytes) -> Bytes:
    """Put frames below one another, column by column; black if the last column has too few.

    Args:
        video: shape (frames, height, width, 3).

    Returns:
        Shape (rows * height, columns * width, 3), with rows as :func:`rows_of` says.
    """
    frames, height, width, _ = video.shape
    rows = rows_of(frames, height)
    columns = math.ceil(frames / rows)
    padded = np.zeros((columns * rows, height, width, 3), np.uint8)
    padded[:frames] = video
    return np.concatenate(list(padded.reshape(columns, rows * height, width, 3)), axis=1)


def frame_errors(video: Bytes, reference: Bytes) -> list[float]:
    r"""Return how far each frame is from the reference's.

    .. math:: \frac{1}{255} \sqrt{\operatorname{mean} (x_f - y_f)^2}

    Args:
        video: shape (frames, height, width, 3).
        reference: the same shape.

    Returns:
        One number a frame, four digits of it.
    """
    difference = video.astype(np.float64) - reference
    errors = np.sqrt(np.mean(difference**2, axis=(1, 2, 3))) / 255
    return [float(f"{error:.4g}") for error in errors]


def stills(stack: NDArray[Any]) -> NDArray[Any]:
    """Return the middle frame of each video; images as they are."""
    return stack if stack.ndim == 4 else stack[:, stack.shape[1] // 2]


#: Methods across a grid; of more, the best. Prompts down it, spread evenly from otcache's worst to its best.
COLUMNS, ROWS = 8, 6
#: Pixels of a grid: an inch, the width of an image about, of prompts, between images, below each row,
#: and below all; and the height of a line of a title.
DPI, TILE, LEFT, GAP, UNDER, BOTTOM = 170, 192, 240, 14, 44, 34
LINE = 24
_ACCENT = SERIES[0].light


def grid_png(results: Results, album: Album) -> bytes:
    """Draw samples in rows and methods in columns as PNG, at the lowest budget at which otcache has a cell.

    Args:
        results: RMSE values are written below the images.
        album: the images or videos.
    """
    budget = shared_budgets(results)[0]
    chosen = spread(results, budget, ROWS)
    columns = {FULL: stills(album.full)}
    columns |= {m: stills(album.stacks[m, budget]) for m in _across(results, album, budget)}
    titles = [_title(method, budget, results) for method in columns]
    head = GAP + LINE * max(title.count("\n") + 1 for title in titles)
    zoom = max(1, round(TILE / album.full.shape[-2]))
    height, width = (zoom * side for side in album.full.shape[-3:-1])
    lefts = [LEFT + place * (max(TILE, width) + GAP) for place in range(len(columns))]
    tops = [head + place * (height + UNDER) for place in range(len(chosen))]
    page = np.full((tops[-1] + height + UNDER + BOTTOM, lefts[-1] + width + GAP, 3), 255, np.uint8)
    for left, (method, stack) in zip(lefts, columns.items(), strict=True):
        for top, sample in zip(tops, chosen, strict=True):
            if method == OURS:
                page[top - 4 : top + height + 4, left - 4 : left + width + 4] = _ACCENT_BYTES
            tile = stack[sample].repeat(zoom, axis=0).repeat(zoom, axis=1)
            page[top : top + height, left : left + width] = tile

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(page, interpolation="none", extent=(0, page.shape[1], page.shape[0], 0))
        for top, sample in zip(tops, chosen, strict=True):
            prompt, seed, _ = results.labels[sample]
            lines = textwrap.wrap(prompt, 22, max_lines=5, placeholder=" …")
            text = "\n".join([*lines, f"seed {seed}"])
            place = LEFT - GAP, top + height / 2
            axes.text(*place, text, ha="right", va="center", fontsize=7, color=INK)
        for left, method, title in zip(lefts, columns, titles, strict=True):
            ours = method == OURS
            style: dict[str, Any] = {"color": _ACCENT if ours else INK, "ha": "center"}
            style["fontweight"] = "bold" if ours else "normal"
            middle = left + width / 2
            axes.text(middle, head - 10, title, va="bottom", fontsize=8, **style)
            for top, sample in zip(tops, chosen, strict=True):
                error = _error(results, method, budget, sample)
                axes.text(middle, top + height + 9, error, va="top", fontsize=7, **style)
        text = "Figures: RMSE against the full run. Rows: from otcache's worst prompt to its best."
        text += f" Frame {album.frames // 2 + 1} of {album.frames}." if album.frames else ""
        axes.text(GAP, page.shape[0] - GAP, text, fontsize=8, color=MUTED)

    size = (page.shape[1] / DPI, page.shape[0] / DPI)
    return draw_png(draw, size, dpi=DPI, layout=None)


_ACCENT_BYTES = tuple(bytes.fromhex(_ACCENT[1:]))


def _across(results: Results, album: Album, budget: int) -> list[str]:
    """Return otcache and the baselines of least RMSE, in the order of the table."""
    cells = [cell for cell in results.at(budget) if (cell.method, budget) in album.stacks]

    def rank(cell: Cell) -> tuple[bool, float]:
        error = level(results, cell, ERROR)
        return cell.method != OURS, float("inf") if error is None else error

    best = {cell.method for cell in sorted(cells, key=rank)[:COLUMNS]}
    return [method for method in results.methods if method in best]


def spread(results: Results, budget: int, rows: int) -> list[int]:
    """Return at most ``rows`` samples, each its prompt's worst, evenly spaced from worst to best."""
    worst: dict[int, int] = {}
    for sample in worst_first(results, budget):
        worst.setdefault(results.prompts[sample], sample)
    distinct = list(worst.values())
    places = np.linspace(0, len(distinct) - 1, min(rows, len(distinct)))
    return [distinct[round(float(place))] for place in places]


def _title(method: str, budget: int, results: Results) -> str:
    if method == FULL:
        return f"{FULL}\nN = {results.num_steps}"
    return "\n".join([*textwrap.wrap(method, 17), f"B = {budget}"])


def _error(results: Results, method: str, budget: int, sample: int) -> str:
    cell = results.cell(method, budget)
    if cell is None or ERROR not in cell.metrics:
        return ""
    return scale_of(results, ERROR).write(cell.metrics[ERROR][sample])
