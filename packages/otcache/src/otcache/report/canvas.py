"""Figures without global state: made, written as PNG or as SVG that follows the page's colours."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from otcache.report.palette import GREY, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def draw_png(draw: Draw, size: tuple[float, float], dpi: int = 150) -> bytes:
    """PNG of a figure on white; ``size`` in inches."""
    return _draw(draw, size, "png", dpi=dpi, facecolor="white", metadata={"Software": None})


def draw_svg(draw: Draw, size: tuple[float, float], name: str, label: str) -> str:
    """SVG element to stand inside a page: no size of its own, named for screen readers.

    Args:
        draw: fills the figure.
        size: inches; only the proportion counts.
        name: unique on the page; letters and digits.
        label: what the plot shows, in words; must hold no markup.
    """
    metadata = {"Date": None, "Creator": None}
    raw = _draw(draw, size, "svg", salt=name, transparent=True, metadata=metadata).decode()
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
    draw: Draw, size: tuple[float, float], kind: str, salt: str = "", **options: Any
) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": salt or "otcache"}
    with rc_context(style), io.BytesIO() as target, warnings.catch_warnings():
        # A prompt may hold what the font lacks; it shows a box there.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(target, format=kind, **options)
        return target.getvalue()
