"""Images and videos of all methods: a grid as PNG, and the cards of the page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
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
    from matplotlib.gridspec import SubplotSpec


#: Pixels that a side of a WebP file may have.
LONGEST = 16383


def rows_of(frames: int, height: int) -> int:
    """Frames below one another in a strip: all of them, unless the picture would be too high."""
    columns = math.ceil(frames / max(1, LONGEST // height))
    return math.ceil(frames / columns)


def strip(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames below one another, column by column; black where the last column has too few.

    Args:
        clip: shape (frames, height, width, 3).

    Returns:
        Shape (rows * height, columns * width, 3), with rows as :func:`rows_of` says.
    """
    frames, height, width, _ = clip.shape
    rows = rows_of(frames, height)
    columns = math.ceil(frames / rows)
    padded = np.zeros((columns * rows, height, width, 3), np.uint8)
    padded[:frames] = clip
    return np.concatenate(list(padded.reshape(columns, rows * height, width, 3)), axis=1)


def frame_errors(clip: NDArray[np.uint8], reference: NDArray[np.uint8]) -> list[float]:
    r"""How far each frame is from the reference's.

    .. math:: \frac{1}{255} \sqrt{\operatorname{mean} (x_f - y_f)^2}

    Args:
        clip: shape (frames, height, width, 3).
        reference: the same shape.

    Returns:
        One number a frame, four digits of it.
    """
    difference = clip.astype(np.float64) - reference
    errors = np.sqrt(np.mean(difference**2, axis=(1, 2, 3))) / 255
    return [float(f"{error:.4g}") for error in errors]


def stills(stack: NDArray[Any]) -> NDArray[Any]:
    """The middle frame of each clip; pictures as they are."""
    return stack if stack.ndim == 4 else stack[:, stack.shape[1] // 2]


_ACCENT = SERIES[0].light
#: Methods across; of more, the best.
COLUMNS = 8


def grid_png(results: Results, album: Album, budget: int | None = None, rows: int = 6) -> bytes:
    """The grid as PNG.

    Args:
        results: RMSE values stand below the pictures.
        album: the pictures or clips.
        budget: B; the lowest at which otcache stands by default.
        rows: prompts shown, spread evenly from otcache's worst sample to its best.
    """
    full = stills(album.full)
    budget = shared_budgets(results)[0] if budget is None else budget
    chosen = spread(results, budget, rows)
    columns: list[tuple[str, Bytes]] = [(FULL, full)]
    columns += [(m, stills(album.stacks[m, budget])) for m in _across(results, album, budget)]

    def draw(figure: Figure) -> None:
        shape = (len(chosen), len(columns) + 1)
        spec = figure.add_gridspec(*shape, width_ratios=[1.25, *[1.0] * len(columns)])
        for row, sample in enumerate(chosen):
            _write_prompt(
                figure, spec[row, 0], results.labels[sample][0], results.labels[sample][1]
            )
            for column, (method, stack) in enumerate(columns, start=1):
                title = _title(method, budget, results) if row == 0 else ""
                picture = stack[sample]
                error = _error(results, method, budget, sample)
                _show(figure, spec[row, column], picture, title, error, method == OURS)
        text = "Figures: RMSE against the full run. Rows: from otcache's worst prompt to its best."
        text += f" Frame {album.frames // 2 + 1} of {album.frames}." if album.frames else ""
        figure.supxlabel(text, fontsize=8, color=MUTED, x=0.01, ha="left")

    height = full.shape[1] / full.shape[2]
    size = (1.15 * (len(columns) + 1.25), (1.15 * height + 0.22) * len(chosen) + 0.5)
    return draw_png(draw, size, dpi=170)


def _across(results: Results, album: Album, budget: int) -> list[str]:
    """otcache and the rivals of least RMSE, in the order of the table."""
    cells = [cell for cell in results.at(budget) if (cell.method, budget) in album.stacks]

    def rank(cell: Cell) -> tuple[bool, float]:
        error = level(results, cell, ERROR)
        return cell.method != OURS, float("inf") if error is None else error

    best = {cell.method for cell in sorted(cells, key=rank)[:COLUMNS]}
    return [method for method in results.methods if method in best]


def spread(results: Results, budget: int, rows: int) -> list[int]:
    """At most ``rows`` samples, each its prompt's worst, evenly spaced from worst to best."""
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


def _write_prompt(figure: Figure, place: SubplotSpec, prompt: str, seed: int) -> None:
    axes = figure.add_subplot(place)
    axes.set_axis_off()
    text = "\n".join(textwrap.wrap(prompt, 22, max_lines=5, placeholder=" …"))
    axes.text(1, 0.5, f"{text}\nseed {seed}", ha="right", va="center", fontsize=7, color=INK)


def _show(
    figure: Figure, place: SubplotSpec, picture: Bytes, title: str, error: str, ours: bool
) -> None:
    axes = figure.add_subplot(place)
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(ours)
        spine.set_color(_ACCENT)
        spine.set_linewidth(2)
    color, weight = (_ACCENT, "bold") if ours else (INK, "normal")
    axes.set_title(title, fontsize=8, color=color, fontweight=weight)
    axes.set_xlabel(error, fontsize=7, color=color, fontweight=weight, labelpad=2)


#: Characters of pictures in a page; where they would be more, all are shown smaller.
ROOM = 24_000_000
#: Samples on the wall.
MOST = 16
#: Pixels of the shorter side from which on pictures, and clips, may be halved.
HALVED, HALVED_CLIPS = 17, 64
#: Frames below which none of a clip are left out.
FEWEST_FRAMES = 12


def wall(results: Results, album: Album, room: int = ROOM) -> dict[str, Any]:
    """Plain data for the page.

    Args:
        results: labels, per-sample RMSE, and the frame rate of clips.
        album: their pictures or clips.
        room: characters that all of them may take.

    Returns:
        ``pictures``, data URIs, each picture once, however many methods make it; ``cards``, each of
        ``sample``, ``full`` and ``tiles``: places in ``pictures``, by ``method:budget``, the method
        by its own place in ``results.methods``; those on which otcache is worst at the lowest budget
        first; ``size``, height and width of a picture; ``smaller``, by which factor they are smaller
        than in the album.

        Of clips a picture is a film strip of all frames. Cards have ``errors`` too, the RMSE of each
        frame by ``method:budget``; and there are ``frames``, the numbers of those shown, from 0;
        ``filmed``, how many a clip has; ``rows``, frames below one another in a strip; ``rate``, shown
        frames a second. Where room is short even so, there are fewer cards.
    """
    chosen = worst_first(results, shared_budgets(results)[0])[:MOST]
    first, hand = chosen[0], _Hand(results, album)
    for hand in _hands(results, album):
        hand.card(first)
        if hand.length * len(chosen) <= room:
            break
    if album.frames:
        chosen = chosen[: max(1, room // hand.length)]
    cards = [hand.card(sample) for sample in chosen]
    return {
        "pictures": list(hand.places),
        "cards": cards,
        "size": hand.size,
        "smaller": hand.factor,
        **hand.film,
    }


def _hands(results: Results, album: Album) -> Iterator[_Hand]:
    """Ever smaller ones: first in space, then, of clips, every k-th frame alone."""
    halved = HALVED_CLIPS if album.frames else HALVED
    hand = _Hand(results, album)
    yield hand
    while min(hand.size) >= halved:
        hand = _Hand(results, album, hand.factor * 2)
        yield hand
    while album.frames // (hand.stride + 1) >= FEWEST_FRAMES:
        hand = _Hand(results, album, hand.factor, hand.stride + 1)
        yield hand


@dataclass(frozen=True)
class _Hand:
    """Encodes cards at a size.

    Attributes:
        stride: of a clip, every so many frames are shown.
        places: data URI of a picture to its place.
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
    def frames(self) -> Sequence[int]:
        """Those shown of a clip."""
        return range(0, self.album.frames, self.stride)

    @property
    def film(self) -> dict[str, Any]:
        """What a page of clips knows besides."""
        if not self.album.frames:
            return {}
        return {
            "frames": list(self.frames),
            "filmed": self.album.frames,
            "rows": rows_of(len(self.frames), self.size[0]),
            "rate": self.results.frames_per_second / self.stride,
        }

    def card(self, sample: int) -> dict[str, Any]:
        methods, stacks, full = self.results.methods, self.album.stacks, self.album.full[sample]
        made = {
            f"{place}:{budget}": stacks[method, budget][sample]
            for place, method in enumerate(methods)
            for budget in self.results.budgets
            if (method, budget) in stacks
        }
        tiles = {key: self._place(one) for key, one in made.items()}
        card: dict[str, Any] = {"sample": sample, "full": self._place(full), "tiles": tiles}
        if self.album.frames:
            step = slice(None, None, self.stride)
            card["errors"] = {
                key: frame_errors(clip[step], full[step]) for key, clip in made.items()
            }
        return card

    def _place(self, picture: Bytes) -> int:
        small = self._small(picture)
        return self.places.setdefault(
            data_uri(strip(small) if small.ndim == 4 else small), len(self.places)
        )

    def _small(self, picture: Bytes) -> Bytes:
        if picture.ndim == 4:
            picture = picture[:: self.stride]
        if self.factor == 1:
            return picture
        largest = max(picture.shape[-3:-1]) // self.factor
        return np.rint(shrink(picture, largest)).astype(np.uint8)
