"""Colours that stay apart for colour-blind readers, and in grey by marker."""

from __future__ import annotations

from dataclasses import dataclass

from otcache.report.front import coloured, rivals
from otcache.report.scales import OURS
from otcache.results import Results


@dataclass(frozen=True)
class Ink:
    """A colour on white and on dark grey; both stand out by at least 4.5 to 1, so text may wear it.

    References:
        Okabe and Ito, Color universal design, 2008, https://jfly.uni-koeln.de/color/, for the hues;
        W3C, Web content accessibility guidelines 2.2, 2023, 1.4.3, for the contrast.
    """

    light: str
    dark: str


#: otcache's, then six that rivals take in turn.
SERIES = (
    Ink("#b84a00", "#ff9a56"),
    Ink("#1b69b6", "#6fb5f7"),
    Ink("#0a7450", "#52d1a0"),
    Ink("#8740b5", "#c99bf2"),
    Ink("#7a5d00", "#dfbd45"),
    Ink("#b3265e", "#ff8db5"),
    Ink("#0b6f80", "#58cfdf"),
)
#: Rivals behind the front.
GREY = Ink("#868f9c", "#6f7a89")
#: Shape of each series, so that curves stay apart in grey.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def series_of(results: Results, metric: str) -> dict[str, int]:
    """Place in :data:`SERIES` of each method that is coloured for a metric.

    otcache has the first. A rival keeps its colour from metric to metric unless one before it on the
    front has it already.
    """
    usual = {method: i % (len(SERIES) - 1) + 1 for i, method in enumerate(rivals(results))}
    found: dict[str, int] = {OURS: 0}
    for method in coloured(results, metric):
        if method in found:
            continue
        free = [i for i in range(len(SERIES)) if i not in found.values()]
        wanted = usual.get(method, 0)
        found[method] = wanted if wanted in free else free[0]
    return found
