"""Many methods in one screen: the rest is in the files."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from otcache.report.scales import OURS, scale_of
from otcache.report.summary import ERROR, best_methods, level, noun, shared_budgets
from otcache.results import Results

#: Columns of a terminal for the methods' names, and for a budget; budgets at most.
NAMES, FIGURES, MOST = 32, 14, 5


def summary_table(results: Results, width: int = NAMES + MOST * FIGURES) -> Group:
    """Return a row a method, a column a budget: mean RMSE, and network evaluations where they are not B.

    The best of each budget is bold. Budgets beyond those for which there is room, and those at which
    otcache has no figures, are left to the files, which the caption says.

    Args:
        results: of a comparison.
        width: columns of the terminal.
    """
    budgets = shared_budgets(results)[: max(1, min(MOST, (width - NAMES) // FIGURES))]
    scale, n = scale_of(results, ERROR), results.num_steps
    table = Table(
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", overflow="ellipsis", no_wrap=True, max_width=30)
    for budget in budgets:
        table.add_column(f"B = {budget}", justify="right", no_wrap=True)
    best = {budget: best_methods(results, budget, ERROR) for budget in budgets}
    for method in results.methods:
        style = "cyan" if method == OURS else ""
        row = [Text(("▸ " if method == OURS else "  ") + method, style)]
        for budget in budgets:
            bold = method in best[budget]
            row.append(Text(_figure(results, method, budget), f"{style} bold" if bold else style))
        table.add_row(*row)
    head = Text(f"{results.title}: {scale.head} against the full run of {n} steps", "italic")
    return Group(head, table, Text(_caption(results, budgets), "dim italic"))


def _figure(results: Results, method: str, budget: int) -> str:
    cell = results.cell(method, budget)
    value = level(results, cell, ERROR) if cell else None
    if cell is None or value is None:
        return "-"
    exact = abs(cell.nfe - budget) < 0.005
    return (
        f"{scale_of(results, ERROR).write(value)} ({budget if exact else format(cell.nfe, '.3g')})"
    )


def _caption(results: Results, budgets: tuple[int, ...]) -> str:
    text = (
        f"Mean over {len(results.labels)} samples of {len(set(results.prompts))} prompts; in brackets "
        f"network evaluations of a {noun(results)}. Bold: the best of each budget. Intervals, further "
        "metrics, times and memory: table.md, table.csv, report.html."
    )
    left = [str(b) for b in results.budgets if b not in budgets]
    return text + (f" Only there: B = {', '.join(left)}." if left else "")
