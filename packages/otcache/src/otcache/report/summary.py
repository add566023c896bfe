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
        ratio: paired ratio of means; below 1 otcache is closer to the full run.
    """

    budget: int
    rival: str
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


@lru_cache(maxsize=1024)
def _interval(values: tuple[float, ...], prompts: tuple[int, ...]) -> Interval:
    return mean_interval(values, prompts)


def best_methods(results: Results, budget: int, metric: str) -> set[str]:
    """Methods whose mean is best at this budget (several if they tie)."""
    means = {
        cell.method: interval(results, cell, metric).mean
        for cell in results.at(budget)
        if metric in cell.metrics
    }
    if not means:
        return set()
    best = max(means.values()) if scale_of(metric).higher_is_better else min(means.values())
    return {method for method, mean in means.items() if mean == best}


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
        found.append(Headline(budget, rival.method, ratio))
    return found


def worst_first(results: Results, budget: int) -> list[int]:
    """Samples by falling RMSE of otcache (or of the first method) at this budget."""
    cell = results.cell(OURS, budget) or results.at(budget)[0]
    errors = cell.metrics.get(ERROR, (0.0,) * len(results.labels))
    return sorted(range(len(errors)), key=lambda i: (-errors[i], i))
