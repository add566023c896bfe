"""Who is best where, and the colour of each method."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from otcache.report.analysis import ERROR, level, totals
from otcache.report.results import Results
from otcache.report.scales import OURS, scale_of

#: Rivals drawn in colour at a time; more cannot be told apart.
MOST = 6
Point = tuple[str, float, float]


def front(results: Results, metric: str) -> tuple[str, ...]:
    r"""The rivals nearest to the Pareto front of network evaluations and a metric.

    With q the mean of the metric, turned so that less is better, the front of a set of cells is

    .. math:: \{ i : \nexists j,\ \mathrm{NFE}_j \le \mathrm{NFE}_i,\ q_j \le q_i,
        \text{ one of them } < \}.

    Fronts are peeled off one after the other. A method's place is that of its best cell, and among
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
    """Methods drawn in colour: otcache and the front, or all where that is no more."""
    if len(results.methods) <= MOST + 1:
        return results.methods
    return (*(m for m in results.methods if m == OURS), *front(results, metric))


def rivals(results: Results) -> tuple[str, ...]:
    """Every method but otcache: RMSE's front first, then those on the fronts of most metrics."""
    others = [m for m in results.methods if m != OURS]
    first = front(results, ERROR)
    names = (*results.metrics, *totals(results))
    counts = Counter(method for metric in names for method in front(results, metric))
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
