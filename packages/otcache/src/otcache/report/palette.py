"""Colours that stay apart for colour-blind readers, and in grey by marker."""

from __future__ import annotations

from dataclasses import dataclass

from otcache.report.front import rivals
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
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Look:
    """A method's colour and marker, alike in every plot and for every metric.

    Attributes:
        series: place in :data:`SERIES`.
        marker: place in :data:`MARKERS`.
    """

    series: int
    marker: int

    @property
    def color(self) -> str:
        """On white."""
        return SERIES[self.series].light


def looks(results: Results) -> dict[str, Look]:
    """A look for each method; the first of :func:`~otcache.report.front.rivals` differ in colour.

    Colours repeat from the seventh rival on, with another marker.
    """
    found = {OURS: Look(0, 0)}
    for place, method in enumerate(rivals(results)):
        around, series = divmod(place, len(SERIES) - 1)
        found[method] = Look(series + 1, (series + around) % (len(MARKERS) - 1) + 1)
    return found
