"""A grid of images or videos: samples in rows, methods in columns."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otcache.report.analysis import ERROR, level, shared_budgets, worst_first
from otcache.report.palette import SERIES
from otcache.report.pictures import Album, Bytes
from otcache.report.plots import INK, MUTED, draw_png
from otcache.report.results import FULL, Cell, Results
from otcache.report.scales import OURS, scale_of

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
