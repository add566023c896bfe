"""The comparison in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from otcache.report.costs import costs
from otcache.report.duels import HEADS, duels, figures
from otcache.report.scales import OURS, scale_of
from otcache.report.summary import ERROR, best_methods, gaps, identical, totals
from otcache.report.table import caption, figure
from otcache.report.tags import harms
from otcache.results import Cell, Results


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
