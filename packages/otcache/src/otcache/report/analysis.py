"""What the figures say: means, paired comparisons with each baseline, and regressions by tag."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from otcache.report.results import OURS, OWN, Cell, Results, Scale, scale_of
from otcache.report.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    paired_ratio,
    tag_p_value,
    win_rate,
)

ERROR = "rmse"
# A report needs each of these several times.
_cached = lru_cache(maxsize=4096)
_mean_interval, _paired_difference = _cached(mean_interval), _cached(paired_difference)
_win_rate, _tag_p_value = _cached(win_rate), _cached(tag_p_value)


@dataclass(frozen=True)
class Headline:
    """otcache's mean RMSE over the best other method's, at one budget.

    Attributes:
        budget: B.
        baseline: the other method of least mean RMSE.
        nfe: network evaluations of the baseline; a little off B if inputs decide.
        ratio: paired ratio of means; below 1 otcache is closer to the full run.
    """

    budget: int
    baseline: str
    nfe: float
    ratio: Interval

    @property
    def verdict(self) -> str:
        """``lower``, ``higher`` or ``undecided``, by the side of 1 of the whole interval."""
        if self.ratio.high < 1:
            return "lower"
        return "higher" if self.ratio.low > 1 else "undecided"


def interval(results: Results, cell: Cell, metric: str) -> Interval:
    """Return the mean of a metric with its interval over prompts."""
    return _mean_interval(cell.metrics[metric], results.prompts)


def noun(results: Results) -> str:
    """Return what a sample is: ``image`` or ``video``."""
    return "video" if results.frames_per_second else "image"


def shared_budgets(results: Results) -> tuple[int, ...]:
    """Return budgets at which otcache has a cell; all of them if it has none.

    A method whose settings are near no budget has one of its own, at which there is no other method.
    """
    shared = tuple(b for b in results.budgets if results.cell(OURS, b) is not None)
    return shared or results.budgets


def totals(results: Results) -> tuple[str, ...]:
    """Return distinct totals in the order of their first appearance."""
    return tuple(dict.fromkeys(name for cell in results.cells for name in cell.totals))


def best_methods(results: Results, budget: int, metric: str) -> set[str]:
    """Return methods whose mean, or total, is best at this budget (several if they tie)."""
    bad = {
        cell.method: scale_of(results, metric).badness(value)
        for cell in results.at(budget)
        if (value := level(results, cell, metric)) is not None
    }
    return {method for method, value in bad.items() if value == min(bad.values())}


def level(results: Results, cell: Cell, metric: str) -> float | None:
    """Return the mean of a metric, or a total; None if it was not measured."""
    if metric in cell.metrics:
        return interval(results, cell, metric).mean
    return cell.totals.get(metric)


def identical(cell: Cell) -> int:
    """Count images equal to the full run's to the last bit."""
    return sum(value == 0 for value in cell.metrics.get(ERROR, ()))


def gaps(results: Results) -> dict[tuple[str, str], list[int]]:
    """Return method and reason to the budgets that it explains; to none if it never ran."""
    by_reason: dict[tuple[str, str], list[int]] = {}
    for gap in results.missing:
        budgets = by_reason.setdefault((gap.method, gap.reason), [])
        budgets += [] if gap.budget is None else [gap.budget]
    return by_reason


def headlines(results: Results) -> list[Headline]:
    """Return one for each budget that has otcache and a baseline with RMSE values above 0.

    The baseline is chosen by the same samples, which favours the baseline, not otcache.
    """
    entries = []
    for budget in results.budgets:
        ours = results.cell(OURS, budget)
        others = [
            c for c in results.at(budget) if c.method not in OWN and any(c.metrics.get(ERROR, ()))
        ]
        if ours is None or ERROR not in ours.metrics or not others:
            continue
        best = min(others, key=lambda cell: sum(cell.metrics[ERROR]))
        ratio = paired_ratio(ours.metrics[ERROR], best.metrics[ERROR], results.prompts)
        entries.append(Headline(budget, best.method, best.nfe, ratio))
    return entries


def worst_first(results: Results, budget: int) -> list[int]:
    """Return samples by falling RMSE of otcache (or of the first method) at this budget."""
    cell = results.cell(OURS, budget) or results.at(budget)[0]
    errors = cell.metrics.get(ERROR, (0.0,) * len(results.labels))
    return sorted(range(len(errors)), key=lambda i: (-errors[i], i))


@dataclass(frozen=True)
class PairedComparison:
    """otcache beside a baseline at one budget, over the same prompts and seeds.

    Attributes:
        budget: B.
        baseline: the other method.
        difference: mean of otcache's metric - the baseline's, paired.
        ratio: otcache's mean over the baseline's, paired; None for metrics other than RMSE.
        wins: share of samples on which otcache is better, a tie by half, with its interval.
        scale: of the metric.
    """

    budget: int
    baseline: str
    difference: Interval
    ratio: Interval | None
    wins: Interval
    scale: Scale

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference``, by the side of 0 of the whole 95 % interval."""
        low, high = self.difference.low, self.difference.high
        if self.scale.higher_is_better:
            low, high = -high, -low
        if high < 0:
            return "better"
        return "worse" if low > 0 else "no difference"


def paired_comparisons(results: Results, metric: str = ERROR) -> list[PairedComparison]:
    """Compare otcache with every baseline at every budget at which both have the metric."""
    scale, pairs = scale_of(results, metric), []
    for budget in results.budgets:
        ours = results.cell(OURS, budget)
        for cell in results.at(budget):
            if ours is None or cell.method == OURS:
                continue
            if metric not in cell.metrics or metric not in ours.metrics:
                continue
            a, b = ours.metrics[metric], cell.metrics[metric]
            difference = _paired_difference(a, b, results.prompts)
            ratio = paired_ratio(a, b, results.prompts) if metric == ERROR and any(b) else None
            wins = _win_rate(a, b, results.prompts, higher_is_better=scale.higher_is_better)
            pairs.append(PairedComparison(budget, cell.method, difference, ratio, wins, scale))
    return pairs


#: Below this corrected p-value a regression is reported.
LEVEL = 0.05


@dataclass(frozen=True)
class TagRegression:
    """A tag on which a cell is significantly worse than on the other prompts.

    Attributes:
        cell: of which method and budget.
        metric: by which it is worse.
        tag: the kind of prompt.
        inside, outside: mean of the finite values on the tag, and on the other samples.
        p: of "no worse than on the rest", corrected over tags.
    """

    cell: Cell
    metric: str
    tag: str
    inside: float
    outside: float
    p: float


def tags_of(label: str) -> tuple[str, ...]:
    """Split a label's tags, which are joined by commas."""
    return tuple(tag for part in label.split(",") if (tag := part.strip()))


def tags(results: Results) -> tuple[str, ...]:
    """Return distinct tags in the order of their first sample."""
    return tuple(dict.fromkeys(tag for _, _, text in results.labels for tag in tags_of(text)))


def tag_regressions(results: Results) -> list[TagRegression]:
    """Find tags on which caching loses more than on the rest.

    Tested are the RMSE of every method, and every metric of otcache: each cell's metric less what the
    full run itself has of it (nothing if the metric compares with the full run), by the permutation test
    of :func:`otcache.report.statistics.tag_p_value`, for each tag against all samples without it,
    corrected over tags by Holm's method.

    References:
        Holm: A simple sequentially rejective multiple test procedure, 1979.
    """
    if len(tags(results)) < 2:
        return []
    return [
        regression
        for cell in results.cells
        for metric in cell.metrics
        if metric == ERROR or cell.method == OURS
        for regression in _of_cell(results, cell, metric)
    ]


def _of_cell(results: Results, cell: Cell, metric: str) -> Iterator[TagRegression]:
    values, higher = cell.metrics[metric], scale_of(results, metric).higher_is_better
    members = {
        tag: tuple(tag in tags_of(text) for _, _, text in results.labels) for tag in tags(results)
    }
    full = results.full_metrics.get(metric, (0.0,) * len(values))
    p = {
        tag: _tag_p_value(values, full, has, results.prompts, higher_is_better=higher)
        for tag, has in members.items()
    }
    corrected = 0.0
    for step, tag in enumerate(sorted(p, key=lambda tag: p[tag])):
        corrected = max(corrected, p[tag] * (len(p) - step))
        if corrected >= LEVEL:
            return
        inside = _mean(values, members[tag])
        outside = _mean(values, tuple(not has for has in members[tag]))
        yield TagRegression(cell, metric, tag, inside, outside, corrected)


def _mean(values: tuple[float, ...], chosen: tuple[bool, ...]) -> float:
    finite = [v for v, use in zip(values, chosen, strict=True) if use and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.inf
