"""What the figures say: levels, fronts of budgets, paired comparisons, kinds of prompts that are hurt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from rich.table import Table
from rich.text import Text

from otcache.report.results import OURS, Cell, Results, Scale, scale_of
from otcache.report.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    paired_ratio,
    tag_harm,
    win_rate,
)

ERROR = "rmse"


@dataclass(frozen=True)
class Headline:
    """otcache's mean RMSE over the best other method's, at one budget.

    Attributes:
        budget: B.
        rival: the other method of least mean RMSE.
        nfe: network evaluations of the rival; a little off B where inputs decide.
        ratio: paired ratio of means; below 1 otcache is closer to the full run.
    """

    budget: int
    rival: str
    nfe: float
    ratio: Interval

    @property
    def verdict(self) -> str:
        """``lower``, ``higher`` or ``undecided``: on which side of 1 the whole interval lies."""
        if self.ratio.high < 1:
            return "lower"
        return "higher" if self.ratio.low > 1 else "undecided"


def interval(results: Results, cell: Cell, metric: str) -> Interval:
    """Mean of a metric with its interval over prompts."""
    return _interval(cell.metrics[metric], results.prompts)


@lru_cache(maxsize=4096)
def _interval(values: tuple[float, ...], prompts: tuple[int, ...]) -> Interval:
    return mean_interval(values, prompts)


def noun(results: Results) -> str:
    """What a sample is: ``picture`` or ``clip``."""
    return "clip" if results.frames_per_second else "picture"


def shared_budgets(results: Results) -> tuple[int, ...]:
    """Budgets at which otcache stands; all of them where it stands at none.

    A method that no setting brings near a budget stands at one of its own, beside nobody.
    """
    shared = tuple(b for b in results.budgets if results.cell(OURS, b) is not None)
    return shared or results.budgets


def totals(results: Results) -> tuple[str, ...]:
    """Distinct totals in the order of their first appearance."""
    return tuple(dict.fromkeys(name for cell in results.cells for name in cell.totals))


def best_methods(results: Results, budget: int, metric: str) -> set[str]:
    """Methods whose mean, or total, is best at this budget (several if they tie)."""
    bad = {
        cell.method: scale_of(results, metric).badness(value)
        for cell in results.at(budget)
        if (value := level(results, cell, metric)) is not None
    }
    return {method for method, value in bad.items() if value == min(bad.values())}


def level(results: Results, cell: Cell, metric: str) -> float | None:
    """The mean of a metric, or a total; None where it was not measured."""
    if metric in cell.metrics:
        return interval(results, cell, metric).mean
    return cell.totals.get(metric)


def identical(cell: Cell) -> int:
    """Pictures equal to the full run's to the last bit."""
    return sum(value == 0 for value in cell.metrics.get(ERROR, ()))


def gaps(results: Results) -> dict[tuple[str, str], list[int]]:
    """Method and reason to the budgets that it explains; to none where it never ran."""
    found: dict[tuple[str, str], list[int]] = {}
    for gap in results.missing:
        budgets = found.setdefault((gap.method, gap.reason), [])
        budgets += [] if gap.budget is None else [gap.budget]
    return found


def headlines(results: Results) -> list[Headline]:
    """One for each budget that has otcache and a rival with RMSE values above 0.

    The rival is chosen by the same samples, which favours the rival, not otcache.
    """
    found = []
    for budget in results.budgets:
        ours = results.cell(OURS, budget)
        rivals = [
            c for c in results.at(budget) if c.method != OURS and any(c.metrics.get(ERROR, ()))
        ]
        if ours is None or ERROR not in ours.metrics or not rivals:
            continue
        rival = min(rivals, key=lambda cell: sum(cell.metrics[ERROR]))
        ratio = paired_ratio(ours.metrics[ERROR], rival.metrics[ERROR], results.prompts)
        found.append(Headline(budget, rival.method, rival.nfe, ratio))
    return found


def worst_first(results: Results, budget: int) -> list[int]:
    """Samples by falling RMSE of otcache (or of the first method) at this budget."""
    cell = results.cell(OURS, budget) or results.at(budget)[0]
    errors = cell.metrics.get(ERROR, (0.0,) * len(results.labels))
    return sorted(range(len(errors)), key=lambda i: (-errors[i], i))


@dataclass(frozen=True)
class Duel:
    """otcache beside a rival at one budget, over the same prompts and seeds.

    Attributes:
        budget: B.
        rival: the other method.
        difference: mean of otcache's metric - the rival's, paired.
        ratio: otcache's mean over the rival's, paired; None for metrics other than RMSE.
        wins: share of samples on which otcache is better, a tie by half, with its interval.
        scale: of the metric.
    """

    budget: int
    rival: str
    difference: Interval
    ratio: Interval | None
    wins: Interval
    scale: Scale

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference``: where the whole 95 % interval lies."""
        low, high = self.difference.low, self.difference.high
        if self.scale.higher_is_better:
            low, high = -high, -low
        if high < 0:
            return "better"
        return "worse" if low > 0 else "no difference"


def duels(results: Results, metric: str = ERROR) -> list[Duel]:
    """Every budget and rival for which both sides have the metric."""
    scale, found = scale_of(results, metric), []
    for budget in results.budgets:
        ours = results.cell(OURS, budget)
        for cell in results.at(budget):
            if ours is None or cell.method == OURS:
                continue
            if metric not in cell.metrics or metric not in ours.metrics:
                continue
            a, b = ours.metrics[metric], cell.metrics[metric]
            difference = _difference(a, b, results.prompts)
            ratio = paired_ratio(a, b, results.prompts) if metric == ERROR and any(b) else None
            wins = _wins(a, b, results.prompts, scale.higher_is_better)
            found.append(Duel(budget, cell.method, difference, ratio, wins, scale))
    return found


def duel_table(results: Results) -> Table:
    """The duels for the terminal."""
    table = Table(title="otcache against each, RMSE, paired, 95 % intervals", box=None)
    for head in HEADS:
        table.add_column(head, justify="left" if head == "rival" else "right")
    for duel in duels(results):
        style = {"better": "green", "worse": "red"}.get(duel.verdict, "")
        table.add_row(*(Text(text, style) for text in figures(duel)))
    return table


HEADS = ["B", "rival", "otcache - rival", "otcache / rival", "better on", "otcache is"]


def figures(duel: Duel) -> list[str]:
    """A row of the table."""
    difference, ratio, scale = duel.difference, duel.ratio, duel.scale
    low, high = scale.write_signed(difference.low), scale.write_signed(difference.high)
    return [
        str(duel.budget),
        duel.rival,
        f"{scale.write_signed(difference.mean)} [{low}, {high}]" if difference.count else "-",
        f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "-",
        f"{duel.wins.mean:.0%} [{duel.wins.low:.0%}, {duel.wins.high:.0%}]",
        duel.verdict,
    ]


@lru_cache(maxsize=4096)
def _difference(a: tuple[float, ...], b: tuple[float, ...], prompts: tuple[int, ...]) -> Interval:
    return paired_difference(a, b, prompts)


@lru_cache(maxsize=4096)
def _wins(
    a: tuple[float, ...], b: tuple[float, ...], prompts: tuple[int, ...], higher: bool
) -> Interval:
    return win_rate(a, b, prompts, higher_is_better=higher).rate


#: Below this, over all tags of a cell together, a tag is called hurt.
LEVEL = 0.05


@dataclass(frozen=True)
class Harm:
    """A tag on which a cell is significantly worse than on the other prompts.

    Attributes:
        cell: whose.
        metric: by which measure.
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
    """Single tags of a label's, which are joined by commas."""
    return tuple(tag for part in label.split(",") if (tag := part.strip()))


def tags(results: Results) -> tuple[str, ...]:
    """Distinct tags in the order of their first sample."""
    return tuple(dict.fromkeys(tag for _, _, text in results.labels for tag in tags_of(text)))


def harms(results: Results) -> list[Harm]:
    """Tags that caching hurts more than the rest.

    Tested are the RMSE of every method, and every metric of otcache: each cell's metric less what the
    full run itself has of it (nothing where the full run is the measure), by the permutation test of
    :func:`otcache.report.statistics.tag_harm`, for each tag against all samples without it, corrected
    over tags by Holm's method.
    """
    if len(tags(results)) < 2:
        return []
    return [
        harm
        for cell in results.cells
        for metric in cell.metrics
        if metric == ERROR or cell.method == OURS
        for harm in _of_cell(results, cell, metric)
    ]


def _of_cell(results: Results, cell: Cell, metric: str) -> Iterator[Harm]:
    values, higher = cell.metrics[metric], scale_of(results, metric).higher_is_better
    members = {
        tag: tuple(tag in tags_of(text) for _, _, text in results.labels) for tag in tags(results)
    }
    full = results.full_metrics.get(metric, (0.0,) * len(values))
    p = {tag: _p_value(values, full, has, results.prompts, higher) for tag, has in members.items()}
    corrected = 0.0
    for step, tag in enumerate(sorted(p, key=lambda tag: p[tag])):
        corrected = max(corrected, p[tag] * (len(p) - step))
        if corrected >= LEVEL:
            return
        inside = _mean(values, members[tag])
        outside = _mean(values, tuple(not has for has in members[tag]))
        yield Harm(cell, metric, tag, inside, outside, corrected)


@lru_cache(maxsize=4096)
def _p_value(
    values: tuple[float, ...],
    full: tuple[float, ...],
    inside: tuple[bool, ...],
    prompts: tuple[int, ...],
    higher: bool,
) -> float:
    sides = ["inside" if has else "outside" for has in inside]
    found = tag_harm(values, full, sides, prompts, higher_is_better=higher)
    return next((one.p for one in found if one.tag == "inside"), 1.0)


def _mean(values: tuple[float, ...], chosen: tuple[bool, ...]) -> float:
    finite = [v for v, use in zip(values, chosen, strict=True) if use and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.inf
