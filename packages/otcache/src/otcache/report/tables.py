"""Tables of a report as Markdown and CSV, and the texts of their cells."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from otcache.report.analysis import (
    PairedComparison,
    best_methods,
    gaps,
    identical,
    interval,
    noun,
    paired_comparisons,
    tag_regressions,
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
        value: what a cell costs; None if it was not measured.
        write: the text of a cell.
    """

    head: str
    value: Callable[[Cell], float | None]
    write: Callable[[Cell], str]


def costs(results: Results) -> list[Cost]:
    """Return the columns that at least one cell has."""
    calibration = Cost(
        "full runs",
        lambda cell: calibration_runs(results, cell.method),
        lambda cell: written_runs(results, cell.method),
    )
    every = (*_COSTS, calibration)
    return [cost for cost in every if any(cost.write(c) != NONE for c in results.cells)]


def calibration_runs(results: Results, method: str) -> float | None:
    """Return what a method's calibration took, in full runs of one sample; None if that is not known."""
    nfe = results.calibration_nfe.get(method)
    return None if nfe is None else nfe / results.num_steps


def written_runs(results: Results, method: str) -> str:
    """Write the full runs of a calibration, a dash if they are not known."""
    runs = calibration_runs(results, method)
    return NONE if runs is None else f"{runs:,.0f}"


def timed(results: Results) -> bool:
    """Whether the speed of any cell was measured, reported or withheld."""
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
    """Say what speedups are, and why some are withheld; nothing if none was timed."""
    if not timed(results):
        return ""
    said = [
        "Speedup: whole calls, each beside a full run, the median of such pairs ± half of its interval "
        "(ideal N/NFE)."
    ]
    for reason, count in Counter(c.withheld for c in results.cells if c.withheld).items():
        said.append(f"Withheld (-) at {count} of {len(results.cells)}, since {reason}.")
    return " ".join(said)


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


def figure(results: Results, cell: Cell, metric: str) -> str:
    """Write ``mean ±half interval`` of one cell, or a dash if it was not measured."""
    scale = scale_of(results, metric)
    if metric in cell.totals:
        return scale.write(cell.totals[metric])
    if metric not in cell.metrics:
        return "-"
    mean = interval(results, cell, metric)
    if not mean.count:
        return scale.write(mean.mean)
    star = "*" if mean.infinite else ""
    return f"{scale.write(mean.mean)}{star} ±{scale.write(mean.half)}"


def caption(results: Results) -> str:
    """Say what the figures are, how many images are identical, and which speeds are withheld."""
    prompts = len(set(results.prompts))
    text = (
        f"Mean over {len(results.labels)} samples of {prompts} prompts against the full run, "
        "± half of the 95 % bootstrap interval over prompts."
    )
    text += f" {about_speed(results)}".rstrip()
    if results.calibration_nfe:
        text += " Runs: full ones of a sample that calibration took, for all budgets together."
    infinite = sum(
        interval(results, cell, metric).infinite
        for cell in results.cells
        for metric in cell.metrics
    )
    if infinite:
        text += (
            f" *: {infinite} identical {noun(results)}s have no finite PSNR; its mean omits them."
        )
    return text


HEADS = ["B", "baseline", "otcache - baseline", "otcache / baseline", "better on", "otcache is"]


def pair_figures(pair: PairedComparison) -> list[str]:
    """Write a row of the table of paired comparisons."""
    difference, ratio, scale = pair.difference, pair.ratio, pair.scale
    low, high = scale.write_signed(difference.low), scale.write_signed(difference.high)
    return [
        str(pair.budget),
        pair.baseline,
        f"{scale.write_signed(difference.mean)} [{low}, {high}]" if difference.count else "-",
        f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "-",
        f"{pair.wins.mean:.0%} [{pair.wins.low:.0%}, {pair.wins.high:.0%}]",
        pair.verdict,
    ]


def document(results: Results) -> str:
    """Return all tables, each under a heading; empty ones are omitted."""
    parts = [
        f"# {_plain(results.title)}\n",
        markdown_table(results),
        _section(f"{OURS} against each other method", paired_markdown(results)),
        _section(f"Regressions of {OURS} by tag", regressions_markdown(results)),
        _section("What could not be run", missing_markdown(results)),
        _section("What each method is", sources_markdown(results)),
        _section("Made by", f"    {results.command}\n" if results.command else ""),
    ]
    return "\n".join(part for part in parts if part)


def markdown_table(results: Results) -> str:
    """Return every figure of every cell, with the caption below."""
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
            name = f"**{cell.method}**" if cell.method == OURS else cell.method
            row = [str(cell.budget), name, *(cost.write(cell) for cost in columns)]
            for metric in metrics:
                text = figure(results, cell, metric)
                row.append(f"**{text}**" if cell.method in best[metric] else text)
            rows.append([*row, f"{identical(cell)}"] if same else row)
    table = _table([*heads, "identical"] if same else heads, rows, left=(1,))
    return "\n".join([table, _plain(caption(results)), "", *_full_run(results)])


def paired_markdown(results: Results) -> str:
    """Return the paired comparisons; empty if there are none."""
    rows = [pair_figures(pair) for pair in paired_comparisons(results)]
    return _table(HEADS, rows, left=(1, 5)) if rows else ""


def regressions_markdown(results: Results) -> str:
    """Return the tags on which otcache loses more than on the rest; empty if there are none."""
    rows = []
    for one in tag_regressions(results):
        if one.cell.method != OURS:
            continue
        scale = scale_of(results, one.metric)
        means = [scale.write(one.inside), scale.write(one.outside)]
        place = [str(one.cell.budget), one.cell.method, scale.label, one.tag]
        rows.append([*place, *means, f"{one.p:.2g}"])
    heads = ["B", "method", "metric", "tag", "on the tag", "on the rest", "p (Holm)"]
    return _table(heads, rows, left=(1, 2, 3)) if rows else ""


def missing_markdown(results: Results) -> str:
    """Return what is not in the table, and why; empty if all is."""
    rows = [
        [", ".join(map(str, budgets)) or "all", method, reason]
        for (method, reason), budgets in gaps(results).items()
    ]
    return _table(["B", "method", "reason"], rows, left=(1, 2)) if rows else ""


def sources_markdown(results: Results) -> str:
    """Return projects, versions and rules, with the NFE of calibration; empty if none is known."""
    sources, nfe = results.sources, results.calibration_nfe
    names = dict.fromkeys([*results.methods, *sources, *nfe])
    known = [name for name in names if name in sources or name in nfe]
    rows = [[name, sources.get(name, "-"), f"{nfe.get(name, 0):,}"] for name in known]
    heads = ["method", "source", "evaluations to calibrate"]
    return _table(heads, rows, left=(0, 1)) if rows else ""


def _full_run(results: Results) -> list[str]:
    return [
        f"The full run itself: {scale_of(results, name).label} {scale_of(results, name).write(value)}.\n"
        for name, value in results.full.items()
    ]


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: tuple[int, ...]) -> str:
    rule = ["---" if place in left else "--:" for place in range(len(heads))]
    return "\n".join([_line(heads), _line(rule), *map(_line, rows), ""])


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, texts)) + " |"


def _plain(text: str) -> str:
    """Escape what Markdown takes for the end of a cell or for HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


COSTS = (
    *("nfe", "ideal_speedup", "measured_speedup", "speedup_spread", "seconds", "seconds_spread"),
    *("withheld", "flops", "peak_bytes"),
)
PARTS = ("mean", "low", "high", "count", "infinite")


def csv_table(results: Results) -> str:
    """Return every figure of every cell as CSV.

    Costs come first, then for each metric m ``m_mean``, its 95 % interval ``m_low`` and ``m_high``, the
    number of samples that it is of, ``m_count``, and that it omits, ``m_infinite``; then totals. What was
    not measured is empty; the mean of infinite values alone is ``inf``.
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
        mean = interval(results, cell, metric) if metric in cell.metrics else None
        for part in PARTS:
            value = getattr(mean, part) if mean else None
            yield "inf" if isinstance(value, float) and math.isinf(value) else value
    yield from (cell.totals.get(name) for name in totals(results))
