"""Tables of a comparison on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from otcache.report.analysis import (
    ERROR,
    best_methods,
    level,
    noun,
    paired_comparisons,
    shared_budgets,
    totals,
)
from otcache.report.results import OURS, Cell, Results, scale_of
from otcache.report.tables import HEADS, caption, figure, pair_figures, speedup, timed, written_runs


def rich_table(results: Results, *, costs: bool = True) -> Table:
    """Return every metric of few methods, in 100 columns: one group a budget, the best bold.

    Args:
        results: the figures.
        costs: show evaluations, full runs of the calibration, and speedups.
    """
    table = _table(
        title=f"{results.title} (N = {results.num_steps})",
        caption=caption(results),
        caption_justify="left",
    )
    for head in ("B", "method", *_cost_heads(results, costs)):
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    for metric in results.metrics:
        table.add_column(scale_of(results, metric).head, justify="right", no_wrap=True)
    for budget in results.budgets:
        table.add_section()
        for place, cell in enumerate(results.at(budget)):
            table.add_row(*_row(results, cell, first=place == 0, costs=costs))
    return table


def _table(**titles: Any) -> Table:
    return Table(
        header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **titles
    )


def _cost_heads(results: Results, costs: bool) -> list[str]:
    """Return the columns of costs; evaluations are no column of their own where all of them are B."""
    shown = {
        "NFE": any(cell.nfe != cell.budget for cell in results.cells),
        "runs": bool(results.calibration_nfe),
        "speedup": timed(results),
    }
    return [head for head, has in shown.items() if has and costs]


def _row(results: Results, cell: Cell, first: bool, costs: bool) -> list[Text]:
    ours = cell.method == OURS
    mark, style = ("▸ ", "cyan") if ours else ("  ", "")
    row = [
        Text(str(cell.budget) if first else "", "bold"),
        Text(mark + cell.method, style),
        *(Text(_cost(results, cell, head), style) for head in _cost_heads(results, costs)),
    ]
    for metric in results.metrics:
        best = cell.method in best_methods(results, cell.budget, metric)
        row.append(Text(figure(results, cell, metric), f"{style} bold" if best else style))
    return row


def _cost(results: Results, cell: Cell, head: str) -> str:
    if head == "NFE":
        return f"{cell.nfe:.4g}"
    return written_runs(results, cell.method) if head == "runs" else speedup(cell, 1)


def paired_table(results: Results) -> Table:
    """Return the paired comparisons with each baseline."""
    table = Table(title="otcache against each, RMSE, paired, 95 % intervals", box=None)
    for head in HEADS:
        table.add_column(head, justify="left" if head == "baseline" else "right")
    for pair in paired_comparisons(results):
        style = {"better": "green", "worse": "red"}.get(pair.verdict, "")
        table.add_row(*(Text(text, style) for text in pair_figures(pair)))
    return table


#: Columns of a terminal for the methods' names, for full runs, and for a budget; budgets at most.
NAMES, RUNS, FIGURES, MOST = 32, 8, 14, 5


def summary_table(
    results: Results, width: int = NAMES + MOST * FIGURES, metrics: Sequence[str] = ()
) -> Group:
    """Return a row per method, a column per budget: mean RMSE, and network evaluations if they are not B.

    The best of each budget is bold. Budgets for which there is no room, and those at which otcache has no
    figures, are in the files alone, as the caption says.

    Args:
        results: of a comparison.
        width: columns of the terminal.
        metrics: that get a table of their own below RMSE's; those without figures are omitted.
    """
    room = width - NAMES - (RUNS if results.calibration_nfe else 0)
    budgets = shared_budgets(results)[: max(1, min(MOST, room // FIGURES))]
    measured = {*results.metrics, *totals(results)} - {ERROR}
    parts: list[RenderableType] = []
    for metric in (ERROR, *(name for name in dict.fromkeys(metrics) if name in measured)):
        where = (
            "" if metric in results.full else f" against the full run of {results.num_steps} steps"
        )
        title = f"{results.title}: " if metric == ERROR else ""
        head = f"{title}{scale_of(results, metric).head}{where}"
        parts += [Text(head, "italic"), _of_metric(results, metric, budgets)]
    return Group(*parts, Text(_caption(results, budgets), "dim italic"))


def _of_metric(results: Results, metric: str, budgets: Sequence[int]) -> Table:
    table = _table()
    calibrated = metric == ERROR and bool(results.calibration_nfe)
    table.add_column("method", overflow="ellipsis", no_wrap=True, max_width=30)
    if calibrated:
        table.add_column("runs", justify="right", no_wrap=True)
    for budget in budgets:
        table.add_column(f"B = {budget}", justify="right", no_wrap=True)
    best = {budget: best_methods(results, budget, metric) for budget in budgets}
    for method in results.methods:
        style = "cyan" if method == OURS else ""
        row = [Text(("▸ " if method == OURS else "  ") + method, style)]
        row += [Text(written_runs(results, method), style)] if calibrated else []
        for budget in budgets:
            bold = method in best[budget]
            text = _figure(results, method, budget, metric)
            row.append(Text(text, f"{style} bold" if bold else style))
        table.add_row(*row)
    return table


def _figure(results: Results, method: str, budget: int, metric: str) -> str:
    cell = results.cell(method, budget)
    value = level(results, cell, metric) if cell else None
    if cell is None or value is None:
        return "-"
    exact = abs(cell.nfe - budget) < 0.005
    return (
        f"{scale_of(results, metric).write(value)} ({budget if exact else format(cell.nfe, '.3g')})"
    )


def _caption(results: Results, budgets: tuple[int, ...]) -> str:
    text = (
        f"Mean over {len(results.labels)} samples of {len(set(results.prompts))} prompts; in brackets "
        f"network evaluations per {noun(results)}; runs: full ones that calibration took. Bold: the best "
        "of each budget. Intervals, further "
        "metrics, times and memory: table.md, table.csv, report.html."
    )
    elsewhere = [str(b) for b in results.budgets if b not in budgets]
    return text + (f" Only there: B = {', '.join(elsewhere)}." if elsewhere else "")
