"""The comparison as a table: for the terminal and as Markdown."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from otcache.report.scales import OURS, scale_of
from otcache.report.summary import best_methods, interval
from otcache.results import Cell, Results


def rich_table(results: Results) -> Table:
    """The table for a terminal of 100 columns: one group a budget, the best of each in bold."""
    table = Table(
        title=f"{results.title} (N = {results.num_steps})",
        caption=caption(results),
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for head in ("B", "method", "NFE", "speedup"):
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    for metric in results.metrics:
        table.add_column(_head(metric), justify="right", no_wrap=True)
    for budget in results.budgets:
        table.add_section()
        for place, cell in enumerate(results.at(budget)):
            table.add_row(*_row(results, cell, first=place == 0))
    return table


def markdown_table(results: Results) -> str:
    """The same table in Markdown, with the caption below."""
    heads = ["B", "method", "NFE", "speedup (ideal)", *map(_head, results.metrics)]
    lines = [_line(heads), _line(["--:", "---", *["--:"] * (len(heads) - 2)])]
    for budget in results.budgets:
        best = {metric: best_methods(results, budget, metric) for metric in results.metrics}
        for cell in results.at(budget):
            figures = [str(cell.budget), cell.method, f"{cell.nfe:.4g}", speedup(cell)]
            if cell.method == OURS:
                figures[1] = f"**{cell.method}**"
            for metric in results.metrics:
                text = figure(results, cell, metric)
                figures.append(f"**{text}**" if cell.method in best[metric] else text)
            lines.append(_line(figures))
    return "\n".join([*lines, "", caption(results), ""])


def figure(results: Results, cell: Cell, metric: str) -> str:
    """``mean ±half interval`` of one cell, or a dash where it was not measured."""
    if metric not in cell.metrics:
        return "-"
    found, scale = interval(results, cell, metric), scale_of(metric)
    if not found.count:
        return scale.write(found.mean)
    star = "*" if found.infinite else ""
    return f"{scale.write(found.mean)}{star} ±{scale.write(found.half)}"


def speedup(cell: Cell) -> str:
    """``measured (ideal)``."""
    return f"{cell.measured_speedup:.2f} ({cell.ideal_speedup:.2f})"


def caption(results: Results) -> str:
    """What the figures are, in two sentences; counts identical pictures if there are any."""
    prompts = len(set(results.prompts))
    text = (
        f"Mean over {len(results.labels)} samples of {prompts} prompts against the full run, "
        "± half of the 95 % bootstrap interval over prompts. Speedup: measured (ideal N/NFE)."
    )
    infinite = sum(
        interval(results, cell, metric).infinite
        for cell in results.cells
        for metric in cell.metrics
    )
    if infinite:
        text += (
            f" *: {infinite} identical pictures have no finite PSNR and are left out of its mean."
        )
    return text


def _row(results: Results, cell: Cell, first: bool) -> list[Text]:
    ours = cell.method == OURS
    mark, style = ("▸ ", "cyan") if ours else ("  ", "")
    row = [
        Text(str(cell.budget) if first else "", "bold"),
        Text(mark + cell.method, style),
        Text(f"{cell.nfe:.4g}", style),
        Text(speedup(cell), style),
    ]
    for metric in results.metrics:
        best = cell.method in best_methods(results, cell.budget, metric)
        row.append(Text(figure(results, cell, metric), f"{style} bold" if best else style))
    return row


def _head(metric: str) -> str:
    scale = scale_of(metric)
    return f"{scale.label} {scale.arrow}"


def _line(figures: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in figures) + " |"
