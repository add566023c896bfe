"""Colours that stay apart for colour-blind readers, and in grey by marker."""

from __future__ import annotations

from dataclasses import dataclass

from otcache.report.scales import OURS
from otcache.results import Results

# After Okabe and Ito: Color universal design, 2008, https://jfly.uni-koeln.de/color/; blue and yellow
# moved until both stand out from white and from dark grey.
_OURS = "#d55e00"
_OTHERS = ("#2383c4", "#009e73", "#cc79a7", "#9a7b0a", "#56b4e9", "#7f7f7f")
_MARKERS = ("s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Look:
    """Colour, marker and weight of a method, alike in every plot."""

    color: str
    marker: str
    width: float
    order: int


def looks(results: Results) -> dict[str, Look]:
    """A look for each method: otcache stands out, the others keep their order."""
    others = [method for method in results.methods if method != OURS]
    found = {
        method: Look(_OTHERS[i % len(_OTHERS)], _MARKERS[i % len(_MARKERS)], 1.3, 2)
        for i, method in enumerate(others)
    }
    return {**found, OURS: Look(_OURS, "o", 2.6, 5)}
