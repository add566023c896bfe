"""Tables: of the terminal, of Markdown and of CSV."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from otcache.report.analysis import (
    ERROR,
    HEADS,
    best_methods,
    duels,
    figures,
    gaps,
    harms,
    identical,
    interval,
    level,
    noun,
    shared_budgets,
    totals,
)
from otcache.report.results import OURS, Cell, Results, scale_of

#: What was not measured, or is withheld.
NONE = "-"


@dataclass(frozen=True)
class Cost:
    """One column of costs.

    Args:
        head: of the column.
        value: what a cell costs; None where it was not measured.
        write: the text of a cell.
    """

    head: str
    value: Callable[[Cell], float | None]
    write: Callable[[Cell], str]


def costs(results: Results) -> list[Cost]:
    """The columns that at least one cell has."""
    return [cost for cost in _COSTS if any(cost.write(c) != NONE for c in results.cells)]


def timed(results: Results) -> bool:
    """Whether the speed of any cell was measured, given or withheld."""
    return any(speedup(cell) != NONE for cell in results.cells)


def speedup(cell: Cell, digits: int = 2) -> str:
    """Write ``measured ±spread (ideal)``, a dash for what is withheld, alone if none was timed.

    Args:
        cell: of the table.
        digits: of the ideal: a terminal has no room for two.
    """
    ideal = f"({cell.ideal_speedup:.{digits}f})"
    if cell.withheld:
        return f"{NONE} {ideal}"
    if cell.measured_speedup is None or cell.speedup_spread is None:
        return NONE
    spread = f"{cell.speedup_spread:.2f}".removeprefix("0")
    return f"{cell.measured_speedup:.2f} ±{spread} {ideal}"


def about_speed(results: Results) -> str:
    """Say what speedups are, and why some are withheld; nothing where none was timed."""
    if not timed(results):
        return ""
    told = [
        "Speedup: whole calls, each beside a full run, the median of such pairs ± half of its interval "
        "(ideal N/NFE)."
    ]
    for reason, count in Counter(c.withheld for c in results.cells if c.withheld).items():
        told.append(f"Withheld (-) at {count} of {len(results.cells)}, since {reason}.")
    return " ".join(told)


def _scaled(head: str, field: str, unit: float, spread: str = "") -> Cost:
    def value(cell: Cell) -> float | None:
        amount: float | None = getattr(cell, field)
        return None if amount is None else amount / unit

    def write(cell: Cell) -> str:
        amount = value(cell)
        if amount is None:
            return NONE
        half = f" ±{getattr(cell, spread) / unit:.2g}" if spread else ""
        return (f"{amount:.0f}" if amount >= 100 else f"{amount:.3g}") + half

    return Cost(head, value, write)


_COSTS = (
    Cost("NFE", lambda cell: cell.nfe, lambda cell: f"{cell.nfe:.4g}"),
    Cost("speedup (ideal)", lambda cell: cell.measured_speedup, speedup),
    _scaled("seconds", "seconds", 1, "seconds_spread"),
    _scaled("TFLOPs", "flops", 1e12),
    _scaled("peak MB", "peak_bytes", 1e6),
)


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


#: Columns of a terminal for the methods' names, and for a budget; budgets at most.
NAMES, FIGURES, MOST = 32, 14, 5


def summary_table(
    results: Results, width: int = NAMES + MOST * FIGURES, metrics: Sequence[str] = ()
) -> Group:
    """Return a row a method, a column a budget: mean RMSE, and network evaluations where they are not B.

    The best of each budget is bold. Budgets beyond those for which there is room, and those at which
    otcache has no figures, are left to the files, which the caption says.

    Args:
        results: of a comparison.
        width: columns of the terminal.
        metrics: that get a table of their own below RMSE's; those without figures are left out.
    """
    budgets = shared_budgets(results)[: max(1, min(MOST, (width - NAMES) // FIGURES))]
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
    table = Table(
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", overflow="ellipsis", no_wrap=True, max_width=30)
    for budget in budgets:
        table.add_column(f"B = {budget}", justify="right", no_wrap=True)
    best = {budget: best_methods(results, budget, metric) for budget in budgets}
    for method in results.methods:
        style = "cyan" if method == OURS else ""
        row = [Text(("▸ " if method == OURS else "  ") + method, style)]
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
        f"network evaluations of a {noun(results)}. Bold: the best of each budget. Intervals, further "
        "metrics, times and memory: table.md, table.csv, report.html."
    )
    left = [str(b) for b in results.budgets if b not in budgets]
    return text + (f" Only there: B = {', '.join(left)}." if left else "")


def document(results: Results) -> str:
    """All tables, each under a heading; what there is nothing of is left out."""
    parts = [
        f"# {_plain(results.title)}\n",
        markdown_table(results),
        _section(f"{OURS} against each other method", duels_markdown(results)),
        _section(f"Kinds of prompts that {OURS} hurts more than the rest", harm_markdown(results)),
        _section("What could not be run", missing_markdown(results)),
        _section("What each method is", sources_markdown(results)),
        _section("Made by", f"    {results.command}\n" if results.command else ""),
    ]
    return "\n".join(part for part in parts if part)


def markdown_table(results: Results) -> str:
    """Every figure of every cell, with the caption below."""
    metrics = (*results.metrics, *totals(results))
    same, columns = any(map(identical, results.cells)), costs(results)
    heads = [
        "B",
        "method",
        *(cost.head for cost in columns),
        *(scale_of(results, m).head for m in metrics),
    ]
    rows = []
    for budget in results.budgets:
        best = {metric: best_methods(results, budget, metric) for metric in metrics}
        for cell in results.at(budget):
            row = [str(cell.budget), _name(cell), *(cost.write(cell) for cost in columns)]
            for metric in metrics:
                text = figure(results, cell, metric)
                row.append(f"**{text}**" if cell.method in best[metric] else text)
            rows.append([*row, f"{identical(cell)}"] if same else row)
    table = _table([*heads, "identical"] if same else heads, rows, left=(1,))
    return "\n".join([table, _plain(caption(results)), "", *_full_run(results)])


def duels_markdown(results: Results, metric: str = ERROR) -> str:
    """The duels; empty where there are none."""
    rows = [figures(duel) for duel in duels(results, metric)]
    return _table(HEADS, rows, left=(1, 5)) if rows else ""


def harm_markdown(results: Results) -> str:
    """Tags that otcache hurts; empty where there are none."""
    rows = []
    for harm in harms(results):
        if harm.cell.method != OURS:
            continue
        scale = scale_of(results, harm.metric)
        means = [scale.write(harm.inside), scale.write(harm.outside)]
        p = f"{harm.p:.2g}"
        rows.append([str(harm.cell.budget), harm.cell.method, scale.label, harm.tag, *means, p])
    heads = ["B", "method", "metric", "tag", "on the tag", "on the rest", "p (Holm)"]
    return _table(heads, rows, left=(1, 2, 3)) if rows else ""


def missing_markdown(results: Results) -> str:
    """What is not in the table, and why; empty where all is."""
    rows = [
        [", ".join(map(str, budgets)) or "all", method, reason]
        for (method, reason), budgets in gaps(results).items()
    ]
    return _table(["B", "method", "reason"], rows, left=(1, 2)) if rows else ""


def sources_markdown(results: Results) -> str:
    """Projects, versions and rules, with the price of calibration; empty where none is known."""
    names = dict.fromkeys([*results.methods, *results.sources, *results.prices])
    known = [name for name in names if name in results.sources or name in results.prices]
    rows = [
        [name, results.sources.get(name, "-"), f"{results.prices.get(name, 0):,}"] for name in known
    ]
    heads = ["method", "source", "evaluations to calibrate"]
    return _table(heads, rows, left=(0, 1)) if rows else ""


def _full_run(results: Results) -> list[str]:
    return [
        f"The full run itself: {scale_of(results, name).label} {scale_of(results, name).write(value)}.\n"
        for name, value in results.full.items()
    ]


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _name(cell: Cell) -> str:
    return f"**{cell.method}**" if cell.method == OURS else cell.method


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: tuple[int, ...]) -> str:
    rule = ["---" if place in left else "--:" for place in range(len(heads))]
    return "\n".join([_line(heads), _line(rule), *map(_line, rows), ""])


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, texts)) + " |"


def _plain(text: str) -> str:
    """Text that Markdown neither ends a cell at nor takes for HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


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
