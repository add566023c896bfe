"""otcache against each other method, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from otcache.report.scales import OURS
from otcache.report.summary import ERROR
from otcache.results import Results
from otcache.statistics import Interval, paired_difference, paired_ratio


@dataclass(frozen=True)
class Duel:
    """otcache's RMSE beside a rival's at one budget, over the same prompts and seeds.

    Attributes:
        budget: B.
        rival: the other method.
        difference: mean of otcache's RMSE - the rival's, paired.
        ratio: otcache's mean RMSE over the rival's, paired.
        wins: share of samples on which otcache is closer to the full run.
    """

    budget: int
    rival: str
    difference: Interval
    ratio: Interval
    wins: float

    @property
    def verdict(self) -> str:
        """``below``, ``above`` or ``no difference``: where the whole 95 % interval lies."""
        if self.difference.high < 0:
            return "below"
        return "above" if self.difference.low > 0 else "no difference"


def duels(results: Results) -> list[Duel]:
    """Every budget and rival for which both sides have an RMSE."""
    found = []
    for budget in results.budgets:
        ours = results.cell(OURS, budget)
        for cell in results.at(budget):
            if ours is None or cell.method == OURS or ERROR not in cell.metrics:
                continue
            a, b = ours.metrics[ERROR], cell.metrics[ERROR]
            wins = sum(x < y for x, y in zip(a, b, strict=True)) / len(a)
            difference = paired_difference(a, b, results.prompts)
            ratio = paired_ratio(a, b, results.prompts)
            found.append(Duel(budget, cell.method, difference, ratio, wins))
    return found


def duel_table(results: Results) -> Table:
    """The duels for the terminal."""
    table = Table(title="otcache against each, RMSE, paired, 95 % intervals", box=None)
    for head in HEADS:
        table.add_column(head, justify="left" if head == "rival" else "right")
    for duel in duels(results):
        style = {"below": "green", "above": "red"}.get(duel.verdict, "")
        table.add_row(*(Text(text, style) for text in _figures(duel)))
    return table


def duels_markdown(results: Results) -> str:
    """The duels in Markdown; empty where there are none."""
    found = duels(results)
    if not found:
        return ""
    lines = [_line(HEADS), _line(["--:", "---", "--:", "--:", "--:", "---"])]
    return "\n".join([*lines, *(_line(_figures(duel)) for duel in found), ""])


HEADS = ["B", "rival", "otcache - rival", "otcache / rival", "closer", "otcache is"]


def _figures(duel: Duel) -> list[str]:
    difference, ratio = duel.difference, duel.ratio
    return [
        str(duel.budget),
        duel.rival,
        f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]",
        f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
        f"{duel.wins:.0%}",
        duel.verdict,
    ]


def _line(figures: list[str]) -> str:
    return "| " + " | ".join(figures) + " |"
