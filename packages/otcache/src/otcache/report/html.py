"""The page: everything in one file that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from otcache.report.album import Album
from otcache.report.canvas import draw_svg
from otcache.report.costs import costs
from otcache.report.page_data import as_script, page_data
from otcache.report.palette import GREY, SERIES
from otcache.report.plots import error_plot
from otcache.report.scales import OURS, Scale, scale_of
from otcache.report.strips import strips, without_strip
from otcache.report.summary import (
    best_methods,
    gaps,
    headlines,
    identical,
    level,
    noun,
    shared_budgets,
    totals,
)
from otcache.report.table import caption, figure
from otcache.report.tags import Harm, harms, tags
from otcache.report.wall import wall
from otcache.results import Results

#: Parts of the page's script, in order.
SCRIPTS = ("state", "chart", "tables", "film", "wall", "main")
_ERROR_SIZE = (6.4, 4.2)
_ERROR_LABEL = "RMSE against the full run for each method; the table has the figures"


def render(results: Results, album: Album | None = None) -> str:
    """The report as one HTML document: readable on a phone, in light and dark, without a network.

    Whatever comes from outside (title, prompts, tags, method names, reasons, provenance, the command)
    is escaped. A content security policy forbids the page to load anything, and to run any script but
    its own, which it names by hash.

    Args:
        results: the figures.
        album: their pictures or clips; None leaves the wall out.
    """
    environment = Environment(
        loader=PackageLoader("otcache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _script()
    metrics = [(name, scale_of(results, name)) for name in (*results.metrics, *totals(results))]
    return environment.get_template("report.html.j2").render(
        results=results,
        ours=OURS,
        noun=noun(results),
        shared=shared_budgets(results),
        headlines=headlines(results),
        metrics=metrics,
        cost_heads=[cost.head for cost in costs(results)],
        groups=[_group(results, budget) for budget in results.budgets],
        same=any(map(identical, results.cells)),
        caption=caption(results),
        curve=Markup(draw_svg(error_plot(results), _ERROR_SIZE, "error", _ERROR_LABEL)),
        strips={budget: strips(results, budget) for budget in results.budgets},
        without_strip=without_strip(results),
        tags=tags(results),
        harms=list(_harms(results).items()),
        gaps=list(gaps(results).items()),
        provenance=list(_flat(results.provenance)),
        price=sum(results.ledger.values()),
        known=[m for m in results.methods if m in results.sources or m in results.prices],
        series=SERIES,
        grey=GREY,
        data=as_script(page_data(results)),
        wall=as_script(wall(results, album)) if album else None,
        frames=album.frames if album else 0,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _script() -> str:
    folder = resources.files("otcache.report") / "templates"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def _group(results: Results, budget: int) -> dict[str, Any]:
    """Rows of a budget: texts, and numbers to sort by."""
    metrics = (*results.metrics, *totals(results))
    best = {metric: best_methods(results, budget, metric) for metric in metrics}
    rows = []
    for cell in results.at(budget):
        figures = [_figure(figure(results, cell, metric)) for metric in metrics]
        rows.append(
            {
                "cell": cell,
                "ours": cell.method == OURS,
                "costs": [
                    (cost.write(cell), _sortable(cost.value(cell))) for cost in costs(results)
                ],
                "figures": [
                    (*texts, _sortable(level(results, cell, metric)), cell.method in best[metric])
                    for texts, metric in zip(figures, metrics, strict=True)
                ],
                "identical": identical(cell),
            }
        )
    return {"budget": budget, "rows": rows}


def _harms(results: Results) -> dict[tuple[int, str], list[tuple[Harm, Scale]]]:
    """otcache's, by budget and tag, the first metric of the table first."""
    found: dict[tuple[int, str], list[tuple[Harm, Scale]]] = {}
    for harm in harms(results):
        if harm.cell.method == OURS:
            entry = (harm, scale_of(results, harm.metric))
            found.setdefault((harm.cell.budget, harm.tag), []).append(entry)
    return found


def _figure(text: str) -> tuple[str, str]:
    """Mean, and half interval."""
    mean, _, half = text.partition(" ±")
    return mean, half


def _sortable(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as dotted names; long lists are cut."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and len(value) > 8:
            ends = f"{_plain(value[0])}, {_plain(value[1])}, … {_plain(value[-1])}"
            yield prefix + name, f"{ends} ({len(value)} values)"
        elif isinstance(value, list | tuple):
            yield prefix + name, ", ".join(map(_plain, value))
        else:
            yield prefix + name, _plain(value)


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
