"""The comparison as CSV: full precision, one line a cell."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from otcache.report.summary import identical, interval, totals
from otcache.results import Cell, Results

COSTS = (
    *("nfe", "ideal_speedup", "measured_speedup", "speedup_spread", "seconds", "seconds_spread"),
    *("withheld", "flops", "peak_bytes"),
)
PARTS = ("mean", "low", "high", "count", "infinite")


def csv_table(results: Results) -> str:
    """Costs, then for each metric m ``m_mean``, its 95 % interval ``m_low`` and ``m_high``, and how many
    samples it is of, ``m_count``, and leaves out, ``m_infinite``; then totals.

    What was not measured is empty; the mean of infinite values alone is ``inf``.
    """
    with io.StringIO(newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        heads = [f"{metric}_{part}" for metric in results.metrics for part in PARTS]
        facts = ("method", "budget", "setting", *COSTS, "identical")
        writer.writerow([*facts, *heads, *totals(results)])
        for cell in results.cells:
            writer.writerow(["" if v is None else v for v in _values(results, cell)])
        return target.getvalue()


def _values(results: Results, cell: Cell) -> Iterator[object]:
    yield from (cell.method, cell.budget, cell.setting)
    yield from (getattr(cell, name) for name in COSTS)
    yield identical(cell)
    for metric in results.metrics:
        found = interval(results, cell, metric) if metric in cell.metrics else None
        for part in PARTS:
            value = getattr(found, part) if found else None
            yield "inf" if isinstance(value, float) and math.isinf(value) else value
    yield from (cell.totals.get(name) for name in totals(results))
