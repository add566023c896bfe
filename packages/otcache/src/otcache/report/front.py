"""Which rivals are worth a colour: those that few beat at both price and quality."""

from __future__ import annotations

from collections import Counter

from otcache.report.scales import OURS, scale_of
from otcache.report.summary import ERROR, level, totals
from otcache.results import Results

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
