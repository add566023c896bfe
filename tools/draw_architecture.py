"""Draw docs/architecture.svg: packages, their folders, and what each folder says of itself.

``python tools/draw_architecture.py``. A package stands on what is below it; the sentence in a box is the
first line of the folder's ``__init__``.
"""

from __future__ import annotations

import ast
import textwrap
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
#: Packages side by side, top to bottom: each imports only what is below it.
ROWS = (
    ("otcache_ray",),
    ("otcache",),
    ("otcache_video",),
    ("otcache_diffusers", "otcache_solvers"),
    ("otcache_core",),
)
WIDTH, GAP, LINE, ACROSS, LETTERS = 1060, 12, 15, 4, 37
COLOURS = {
    "otcache_ray": "#ffe4e6",
    "otcache": "#dbeafe",
    "otcache_video": "#ede9fe",
    "otcache_diffusers": "#dcfce7",
    "otcache_solvers": "#fef3c7",
    "otcache_core": "#f1f5f9",
}


class Box(NamedTuple):
    """A folder: its name with the number of its files, and its sentence in lines."""

    name: str
    lines: list[str]


def _box(folder: Path, name: str) -> Box:
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    sentence = doc.partition("\n")[0].replace("``", "")
    files = sum(path.name != "__init__.py" for path in folder.rglob("*.py"))
    return Box(f"{name} ({files})", textwrap.wrap(sentence, LETTERS))


def _folders(package: str) -> list[Box]:
    root = ROOT / "packages" / package.replace("_", "-") / "src" / package
    inner = sorted(path.parent for path in root.glob("*/__init__.py"))
    return [_box(folder, folder.name + "/") for folder in inner if any(folder.glob("[!_]*.py"))]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="6" fill="{colour}" stroke="#64748b"/>'


def _package(name: str, x: float, y: float, beside: int) -> tuple[list[str], float, float]:
    """Return the shapes, width and height of a package in a row of so many."""
    boxes, across = _folders(name), ACROSS // beside
    wide = (WIDTH - GAP * (2 * beside - 1)) / ACROSS
    rows = [boxes[k : k + across] for k in range(0, len(boxes), across)]
    shapes, top = [_text(x + GAP, y + 22, name, ' font-weight="bold" font-size="15"')], y + 34
    for row in rows:
        height = LINE * (1 + max(len(box.lines) for box in row)) + GAP
        for k, box in enumerate(row):
            left = x + GAP + k * wide
            shapes.append(_rectangle(left, top, wide - GAP, height, "white"))
            shapes.append(_text(left + 7, top + LINE + 2, box.name, ' font-weight="bold"'))
            shapes += [
                _text(left + 7, top + LINE * (n + 2) + 2, line) for n, line in enumerate(box.lines)
            ]
        top += height + GAP
    width = across * wide + GAP
    return [_rectangle(x, y, width, top - y, COLOURS[name]), *shapes], width, top - y


def drawing() -> str:
    """Return the whole image as SVG."""
    shapes, y = list[str](), 0.0
    for row in ROWS:
        x, tallest = 0.0, 0.0
        for name in row:
            made, width, height = _package(name, x, y, len(row))
            shapes += made
            x, tallest = x + width + GAP, max(tallest, height)
        y += tallest + GAP
    size = f'viewBox="-8 -8 {WIDTH + 16} {y + 8:g}" width="{WIDTH + 16}"'
    font = 'font-family="system-ui, sans-serif" font-size="12" fill="#0f172a"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', *shapes, "</svg>\n"]
    )


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(drawing(), encoding="utf-8")
