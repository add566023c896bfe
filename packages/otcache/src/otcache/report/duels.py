"""otcache against each other method, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rich.table import Table
from rich.text import Text

from otcache.report.scales import OURS, Scale, scale_of
from otcache.report.summary import ERROR
from otcache.results import Results
from otcache.statistics import Interval, paired_difference, paired_ratio, win_rate


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
