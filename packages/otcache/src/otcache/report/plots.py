"""Plots as SVG and PNG, and the colour of each method."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from otcache.report.analysis import ERROR, interval, level, noun, shared_budgets, totals
from otcache.report.results import OURS, Cell, Results, scale_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Baselines drawn in colour at a time; more cannot be distinguished.
MOST = 6
Point = tuple[str, float, float]


def pareto_front(results: Results, metric: str) -> tuple[str, ...]:
    r"""Return the baselines nearest to the Pareto front of network evaluations and a metric.

    With q the mean of the metric, negated if more is better, the Pareto front of a set of cells is

    .. math:: \{ i : \nexists j,\ \mathrm{NFE}_j \le \mathrm{NFE}_i,\ q_j \le q_i,
        \text{ one of them } < \}.

    Pareto fronts are peeled off one after the other. A method's place is that of its best cell, and among
    equals the one with more cells there goes first.

    References:
        Goldberg: Genetic algorithms in search, optimization, and machine learning, 1989, for ranking by
        peeling.

    Args:
        results: the figures.
        metric: name of a metric or of a total.

    Returns:
        At most :data:`MOST` methods, none of them otcache, nearest first.
    """
    peel: dict[str, tuple[int, int]] = {}
    points, depth = _points(results, metric), 0
    while points:
        edge = [p for p in points if not any(_beats(q, p) for q in points)]
        for method, count in Counter(method for method, *_ in edge).items():
            peel.setdefault(method, (depth, -count))
        points = [p for p in points if p not in edge]
        depth += 1
    ranked = sorted(peel, key=lambda m: (*peel[m], results.methods.index(m)))
    return tuple(ranked[:MOST])


def coloured(results: Results, metric: str) -> tuple[str, ...]:
    """Return methods drawn in colour: otcache and the Pareto front, or all if those are not more."""
    if len(results.methods) <= MOST + 1:
        return results.methods
    return (*(m for m in results.methods if m == OURS), *pareto_front(results, metric))


def other_methods(results: Results) -> tuple[str, ...]:
    """Return all but otcache: RMSE's Pareto front first, then those on that of most metrics."""
    others = [m for m in results.methods if m != OURS]
    first = pareto_front(results, ERROR)
    names = (*results.metrics, *totals(results))
    counts = Counter(method for metric in names for method in pareto_front(results, metric))
    rest = sorted((m for m in others if m not in first), key=lambda m: -counts[m])
    return (*first, *rest)


def _points(results: Results, metric: str) -> list[Point]:
    scale = scale_of(results, metric)
    return [
        (cell.method, cell.nfe, scale.badness(value))
        for cell in results.cells
        if cell.method != OURS and (value := level(results, cell, metric)) is not None
    ]


def _beats(q: Point, p: Point) -> bool:
    return q[1] <= p[1] and q[2] <= p[2] and (q[1] < p[1] or q[2] < p[2])


@dataclass(frozen=True)
class Ink:
    """A colour on white and on dark grey; both stand out by at least 4.5 to 1, so text may have it.

    References:
        Okabe and Ito, Color universal design, 2008, https://jfly.uni-koeln.de/color/, for the hues;
        W3C, Web content accessibility guidelines 2.2, 2023, 1.4.3, for the contrast.
    """

    light: str
    dark: str


#: otcache's, then six that baselines take in turn.
SERIES = (
    Ink("#b84a00", "#ff9a56"),
    Ink("#1b69b6", "#6fb5f7"),
    Ink("#0a7450", "#52d1a0"),
    Ink("#8740b5", "#c99bf2"),
    Ink("#7a5d00", "#dfbd45"),
    Ink("#b3265e", "#ff8db5"),
    Ink("#0b6f80", "#58cfdf"),
)
#: Baselines behind the Pareto front.
GREY = Ink("#868f9c", "#6f7a89")
#: Shape of each series, so that curves stay apart in grey.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def series_of(results: Results, metric: str, others: Sequence[str] | None = None) -> dict[str, int]:
    """Return the place in :data:`SERIES` of each method that is coloured for a metric.

    otcache has the first. A baseline keeps its colour from metric to metric unless one before it on the
    Pareto front has it already.

    Args:
        results: the figures.
        metric: name of a metric or of a total.
        others: what :func:`other_methods` returns, if that is known.
    """
    others = other_methods(results) if others is None else others
    usual = {method: i % (len(SERIES) - 1) + 1 for i, method in enumerate(others)}
    places: dict[str, int] = {OURS: 0}
    for method in coloured(results, metric):
        if method in places:
            continue
        free = [i for i in range(len(SERIES)) if i not in places.values()]
        wanted = usual.get(method, 0)
        places[method] = wanted if wanted in free else free[0]
    return places


# Placeholders that an SVG replaces by the page's own colours, so that it reads in light and dark.
INK, MUTED, FAINT, PAPER = "#010203", "#5b6471", "#d0d5dd", "#fefdfc"
_ON_PAGE = {
    INK: "currentColor", MUTED: "var(--muted)", FAINT: "var(--line)", PAPER: "var(--card)",
    GREY.light: "var(--grey)", **{ink.light: f"var(--s{i})" for i, ink in enumerate(SERIES)},
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a prompt is a dollar sign
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Draw = Callable[["Figure"], None]
Layout = Literal["constrained"] | None


def draw_png(
    draw: Draw, size: tuple[float, float], dpi: int = 150, layout: Layout = "constrained"
) -> bytes:
    """Draw a PNG on white; ``size`` in inches."""
    options: dict[str, Any] = {"dpi": dpi, "facecolor": "white", "metadata": {"Software": None}}
    return _draw(draw, size, "png", layout, **options)


def draw_svg(draw: Draw, size: tuple[float, float], name: str, label: str) -> str:
    """Draw an SVG element for a page: no size of its own, named for screen readers.

    Args:
        draw: fills the figure.
        size: inches; only the proportion counts.
        name: unique on the page; letters and digits.
        label: what the plot shows, in words; must hold no markup.
    """
    metadata = {"Date": None, "Creator": None}
    options: dict[str, Any] = {"salt": name, "transparent": True, "metadata": metadata}
    raw = _draw(draw, size, "svg", "constrained", **options).decode()
    body = raw[raw.index("<svg") :]
    opening, rest = body.split(">", 1)
    box = opening[opening.index("viewBox=") :].split('"')[1]
    for placeholder, color in _ON_PAGE.items():
        rest = rest.replace(placeholder, color)
    rest = rest.replace('id="', f'id="{name}-').replace("url(#", f"url(#{name}-")
    rest = rest.replace('xlink:href="#', f'href="#{name}-')
    rest = rest.replace("'DejaVu Sans'", "system-ui, sans-serif")
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{rest}'


def _draw(
    draw: Draw,
    size: tuple[float, float],
    kind: str,
    layout: Layout,
    salt: str = "otcache",
    **options: Any,
) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": salt}
    with rc_context(style), io.BytesIO() as target, warnings.catch_warnings():
        # A prompt may hold what the font lacks; it shows a box there.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=size, layout=layout)
        draw(figure)
        figure.savefig(target, format=kind, **options)
        return target.getvalue()


def strips(results: Results, budget: int) -> list[dict[str, Any]]:
    """Return rows of a budget, but for methods that decide by the input or run another step grid.

    Each has ``method``; ``ours``, whether it is otcache's; ``path``, the outline of the computed steps, a
    step being one unit wide and high; and ``steps``, the computed steps in words.
    """
    return [
        {
            "method": cell.method,
            "ours": cell.method == OURS,
            "path": "".join(f"M{step + 0.08:g} 0h.84v1h-.84z" for step in cell.schedule),
            "steps": ", ".join(map(str, cell.schedule)),
        }
        for cell in results.at(budget)
        if cell.schedule is not None
    ]


def without_strip(results: Results) -> list[str]:
    """Return methods that have no strip at any budget."""
    drawn = {cell.method for cell in results.cells if cell.schedule is not None}
    return [method for method in results.methods if method not in drawn]


ERROR_SIZE = (5.6, 3.9)


def error_plot(results: Results) -> Draw:
    """Plot mean RMSE (log scale) against network evaluations, 95 % intervals as bands.

    otcache and the baselines of :func:`pareto_front` are coloured and named; of few methods all are, of
    many the others are grey.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        series, ends = series_of(results, ERROR), {}
        for method in results.methods:
            cells = sorted((c for c in results.cells if c.method == method), key=lambda c: c.nfe)
            cells = [c for c in cells if any(c.metrics.get(ERROR, ()))]
            if cells and method in series:
                ends[method] = _curve(axes, results, series[method], cells)
            elif cells:
                _grey(axes, results, cells)
        _name_curves(axes, series, ends)
        axes.set_yscale("log")
        axes.set_xticks(shared_budgets(results))
        axes.set_xlabel(f"network evaluations per {noun(results)} (full run: {results.num_steps})")
        axes.set_title("RMSE against the full run, log scale", loc="left", fontsize=9, color=INK)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.yaxis.set_minor_formatter(lambda value, _: _minor(value))
        axes.tick_params(which="both", length=0, labelsize=8)
        axes.grid(axis="y", which="both", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)

    return draw


def strips_size(results: Results) -> tuple[float, float]:
    """Return the inches that the strips need."""
    rows = _strip_rows(results)
    return (5.6, 0.7 + 0.17 * len(rows) + 0.12 * len(results.budgets))


def strips_plot(results: Results) -> Draw:
    """Plot one row per schedule, computed steps filled, budgets apart from each other."""
    rows = _strip_rows(results)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places, y, before = [], 0.0, None
        for cell, steps in rows:
            y += 1.7 if before not in (None, cell.budget) else 1.0
            before = cell.budget
            places.append(y)
            ours = cell.method == OURS
            axes.barh(y, results.num_steps, 0.72, -0.5, color=FAINT, alpha=0.45, linewidth=0)
            axes.barh(
                [y] * len(steps), 0.84, 0.72, [k - 0.42 for k in steps], linewidth=0,
                color=SERIES[0].light if ours else MUTED,
            )  # fmt: skip
        axes.set_yticks(places, [f"{cell.method}  B={cell.budget}" for cell, _ in rows])
        for text, (cell, _) in zip(axes.get_yticklabels(), rows, strict=True):
            text.set_color(SERIES[0].light if cell.method == OURS else INK)
            text.set_fontweight("bold" if cell.method == OURS else "normal")
        axes.set_ylim(y + 0.6, 0.4)
        axes.set_xlim(-0.6, results.num_steps - 0.4)
        axes.set_xlabel("denoising step; filled: computed, faint: forecast")
        axes.tick_params(length=0, labelsize=7)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)

    return draw


def _strip_rows(results: Results) -> list[tuple[Cell, tuple[int, ...]]]:
    """Return cells with a schedule on the N-step grid."""
    return [
        (cell, cell.schedule)
        for budget in results.budgets
        for cell in results.at(budget)
        if cell.schedule is not None
    ]


def _curve(axes: Any, results: Results, series: int, cells: list[Cell]) -> tuple[float, float]:
    """Draw one method; return its right end."""
    ours = series == 0
    rows = [interval(results, cell, ERROR) for cell in cells]
    places, means = [cell.nfe for cell in cells], [one.mean for one in rows]
    style = {"color": SERIES[series].light, "zorder": 5 if ours else 3}
    low = [max(one.low, one.mean * 1e-2) for one in rows]
    axes.fill_between(
        places, low, [one.high for one in rows], alpha=0.15 if ours else 0.07, linewidth=0, **style
    )
    width = 2.6 if ours else 1.3
    axes.plot(
        places, means, marker=MARKERS[series], linewidth=width, markersize=3 + width,
        markeredgecolor=PAPER, markeredgewidth=0.7, **style,
    )  # fmt: skip
    return places[-1], means[-1]


def _grey(axes: Any, results: Results, cells: list[Cell]) -> None:
    means = [interval(results, cell, ERROR).mean for cell in cells]
    places = [cell.nfe for cell in cells]
    axes.plot(places, means, color=GREY.light, linewidth=0.8, zorder=1, marker=".", markersize=3)


def _name_curves(axes: Any, series: dict[str, int], ends: dict[str, tuple[float, float]]) -> None:
    """Write names right of the curves, apart from each other."""
    if not ends:
        return
    low, high = axes.dataLim.y0, axes.dataLim.y1
    gap = 0.058 * (math.log(high / low) if low > 0 else 1.0)
    previous = -math.inf
    for method in sorted(ends, key=lambda name: ends[name][1]):
        previous = max(math.log(ends[method][1]), previous + gap)
        axes.annotate(
            method,
            ends[method],
            (1.03, math.exp(previous)),
            textcoords=axes.get_yaxis_transform(),
            color=SERIES[series[method]].light,
            fontweight="bold" if method == OURS else "normal",
            fontsize=9 if method == OURS else 8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.4, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def _minor(value: float) -> str:
    """Label 2 and 5 of each decade only."""
    mantissa = value / 10 ** math.floor(math.log10(value))
    return f"{value:.3g}" if round(mantissa, 3) in (2, 5) else ""
