"""The comparison as a table of figures: for the terminal, and cell by cell for other writers."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from otcache.report.costs import about_speed, speedup, timed
from otcache.report.scales import OURS, scale_of
from otcache.report.summary import best_methods, interval, noun
from otcache.results import Cell, Results


def rich_table(results: Results, *, costs: bool = True) -> Table:
    """Every metric, for a terminal of 100 columns and few methods: one group a budget, the best bold.

    Args:
        results: the figures.
        costs: show evaluations and speedups.
    """
    table = Table(
        title=f"{results.title} (N = {results.num_steps})",
        caption=caption(results),
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
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


def figure(results: Results, cell: Cell, metric: str) -> str:
    """``mean ±half interval`` of one cell, or a dash where it was not measured."""
    scale = scale_of(results, metric)
    if metric in cell.totals:
        return scale.write(cell.totals[metric])
    if metric not in cell.metrics:
        return "-"
    found = interval(results, cell, metric)
    if not found.count:
        return scale.write(found.mean)
    star = "*" if found.infinite else ""
    return f"{scale.write(found.mean)}{star} ±{scale.write(found.half)}"


def caption(results: Results) -> str:
    """What the figures are; counts identical pictures or clips if there are any, and speeds withheld."""
    prompts = len(set(results.prompts))
    text = (
        f"Mean over {len(results.labels)} samples of {prompts} prompts against the full run, "
        "± half of the 95 % bootstrap interval over prompts."
    )
    text += f" {about_speed(results)}".rstrip()
    infinite = sum(
        interval(results, cell, metric).infinite
        for cell in results.cells
        for metric in cell.metrics
    )
    if infinite:
        text += f" *: {infinite} identical {noun(results)}s have no finite PSNR and are left out of its mean."
    return text


def _cost_heads(results: Results, costs: bool) -> list[str]:
    if not costs:
        return []
    return ["NFE", "speedup"] if timed(results) else ["NFE"]


def _row(results: Results, cell: Cell, first: bool, costs: bool) -> list[Text]:
    ours = cell.method == OURS
    mark, style = ("▸ ", "cyan") if ours else ("  ", "")
    row = [
        Text(str(cell.budget) if first else "", "bold"),
        Text(mark + cell.method, style),
        *([Text(f"{cell.nfe:.4g}", style)] if costs else []),
        *([Text(speedup(cell, 1), style)] if costs and timed(results) else []),
    ]
    for metric in results.metrics:
        best = cell.method in best_methods(results, cell.budget, metric)
        row.append(Text(figure(results, cell, metric), f"{style} bold" if best else style))
    return row
