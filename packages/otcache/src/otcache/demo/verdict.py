"""What the demo's table says, in two sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from otcache.report.analysis import Duel, duels, headlines, level
from otcache.report.results import Results, scale_of


def verdict(results: Results, temporal: Sequence[str] = ()) -> str:
    r"""How far otcache is from the full run beside the best other method of each budget.

    The figure is

    .. math:: \Bigl( \prod_B \frac{\mathrm{RMSE}(\text{otcache}, B)}
              {\min_m \mathrm{RMSE}(m, B)} \Bigr)^{1 / \#B},

    m the other methods. A measure over time is called no worse at a budget where the paired 95 %
    interval of its difference from the method that is best in it does not lie on the worse side of 0.

    Args:
        results: of the demo.
        temporal: names of the metrics that look at clips over time.
    """
    found = headlines(results)
    parts = []
    if found:
        mean = math.exp(sum(math.log(h.ratio.mean) for h in found) / len(found))
        each = ", ".join(f"{h.ratio.mean:.2f} at B = {h.budget} ({h.rival})" for h in found)
        parts.append(f"otcache's RMSE is {mean:.2f} of the best other method's: {each}.")
    if temporal:
        told = "; ".join(_over_time(results, metric) for metric in temporal)
        parts.append(f"Over time, beside the best other method in each measure: {told}.")
    return " ".join(parts)


def _over_time(results: Results, metric: str) -> str:
    best = _best(results, metric)
    worse = [duel.budget for duel in best if duel.verdict == "worse"]
    better = [duel.budget for duel in best if duel.verdict == "better"]
    label = scale_of(results, metric).label
    if worse:
        return f"{label} is worse at B = {', '.join(map(str, worse))}"
    if len(better) == len(best):
        return f"{label} is better at every budget"
    return f"{label} is better or within the 95 % interval at every budget"


def _best(results: Results, metric: str) -> list[Duel]:
    """otcache against the best other method in this metric, one a budget."""
    found: dict[int, Duel] = {}
    for duel in duels(results, metric):
        held = found.get(duel.budget)
        if held is None or _badness(results, metric, duel) < _badness(results, metric, held):
            found[duel.budget] = duel
    return list(found.values())


def _badness(results: Results, metric: str, duel: Duel) -> float:
    cell = results.cell(duel.rival, duel.budget)
    assert cell is not None
    value = level(results, cell, metric)
    assert value is not None
    return scale_of(results, metric).badness(value)
