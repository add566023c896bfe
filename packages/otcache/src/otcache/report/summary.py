"""What the figures say: intervals, the best of each budget, and the headline ratios."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from otcache.report.scales import OURS, scale_of
from otcache.results import Cell, Results
from otcache.statistics import Interval, mean_interval, paired_ratio

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
