"""The page: one HTML file that holds everything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from otcache.report.analysis import (
    TagRegression,
    best_methods,
    gaps,
    headlines,
    identical,
    interval,
    level,
    noun,
    paired_comparisons,
    shared_budgets,
    tag_regressions,
    tags,
    tags_of,
    totals,
)
from otcache.report.gallery import gallery
from otcache.report.images import Album
from otcache.report.plots import (
    GREY,
    SERIES,
    draw_svg,
    error_plot,
    other_methods,
    series_of,
    strips,
    without_strip,
)
from otcache.report.results import OURS, Cell, Results, Scale, scale_of
from otcache.report.tables import caption, costs, figure


def page_data(results: Results) -> dict[str, Any]:
    """Return figures, intervals, paired comparisons and regressions by tag of every metric."""
    others = other_methods(results)
    return {
        "ours": OURS,
        "noun": noun(results),
        "steps": results.num_steps,
        "methods": results.methods,
        "budgets": results.budgets,
        "shared": shared_budgets(results),
        "metrics": [
            _metric(results, name, others) for name in (*results.metrics, *totals(results))
        ],
        "tags": tags(results),
        "samples": [
            {"prompt": prompt, "seed": seed, "tags": tags_of(text)}
            for prompt, seed, text in results.labels
        ],
        "cells": [_cell(results, cell) for cell in results.cells],
        "pairs": {metric: _pairs(results, metric) for metric in results.metrics},
        "regressions": [
            [
                results.methods.index(one.cell.method),
                one.cell.budget,
                one.metric,
                one.tag,
                _short(one.p),
            ]
            for one in tag_regressions(results)
        ],
    }


def as_script(data: Any) -> Markup:
    """Return JSON that no HTML parser can mistake for markup: no ``<``, ``>`` or ``&`` in it.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _metric(results: Results, name: str, others: Sequence[str]) -> dict[str, Any]:
    scale = scale_of(results, name)
    return {
        "name": name,
        "label": scale.label,
        "higher": scale.higher_is_better,
        "digits": scale.digits,
        "meaning": scale.meaning,
        "total": name not in results.metrics,
        "full": _short(results.full.get(name)),
        "pareto": {
            results.methods.index(method): series
            for method, series in series_of(results, name, others).items()
            if method in results.methods
        },
    }


def _cell(results: Results, cell: Cell) -> dict[str, Any]:
    intervals = {name: interval(results, cell, name) for name in cell.metrics}
    return {
        "m": results.methods.index(cell.method),
        "b": cell.budget,
        "nfe": _short(cell.nfe),
        "time": _short(1 / cell.measured_speedup if cell.measured_speedup else None),
        "flops": _short(cell.flops),
        "setting": cell.setting,
        "figures": {
            **{name: [*map(_short, (i.mean, i.low, i.high))] for name, i in intervals.items()},
            **{name: [_short(value)] for name, value in cell.totals.items()},
        },
        "values": {name: [*map(_short, values)] for name, values in cell.metrics.items()},
    }


def _pairs(results: Results, metric: str) -> list[list[Any]]:
    return [
        [
            pair.budget,
            results.methods.index(pair.baseline),
            *map(_short, (pair.difference.mean, pair.difference.low, pair.difference.high)),
            *map(_short, (pair.wins.mean, pair.wins.low, pair.wins.high)),
            pair.verdict,
        ]
        for pair in paired_comparisons(results, metric)
    ]


def _short(value: float | None) -> float | None:
    """Round to five digits; None for what JSON cannot express."""
    return None if value is None or math.isinf(value) else float(f"{value:.5g}")


#: Parts of the page's script, in order.
SCRIPTS = ("state", "chart", "tables", "film", "gallery", "main")
_ERROR_SIZE = (6.4, 4.2)
_ERROR_LABEL = "RMSE against the full run for each method; the table has the figures"


def render(results: Results, album: Album | None = None) -> str:
    """Render the report as one HTML document: for phones too, in light and dark, without a network.

    Whatever comes from outside (title, prompts, tags, method names, reasons, provenance, the command)
    is escaped. A content security policy forbids the page to load anything, and to run any script but
    its own, which it names by hash.

    Args:
        results: the figures.
        album: their images or videos; None omits the gallery.
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
        regressions=list(_regressions(results).items()),
        gaps=list(gaps(results).items()),
        provenance=list(_flat(results.provenance)),
        total_nfe=sum(results.stage_nfe.values()),
        known=[m for m in results.methods if m in results.sources or m in results.calibration_nfe],
        series=SERIES,
        grey=GREY,
        data=as_script(page_data(results)),
        gallery=as_script(gallery(results, album)) if album else None,
        frames=album.frames if album else 0,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _script() -> str:
    folder = resources.files("otcache.report") / "templates"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def _group(results: Results, budget: int) -> dict[str, Any]:
    """Return rows of a budget: texts, and numbers to sort by."""
    metrics = (*results.metrics, *totals(results))
    best = {metric: best_methods(results, budget, metric) for metric in metrics}
    rows = []
    for cell in results.at(budget):
        figures = [figure(results, cell, metric).partition(" ±")[::2] for metric in metrics]
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


def _regressions(
    results: Results,
) -> dict[tuple[int, str], list[tuple[TagRegression, Scale]]]:
    """Return otcache's, by budget and tag, the first metric of the table first."""
    regressions: dict[tuple[int, str], list[tuple[TagRegression, Scale]]] = {}
    for one in tag_regressions(results):
        if one.cell.method == OURS:
            entry = (one, scale_of(results, one.metric))
            regressions.setdefault((one.cell.budget, one.tag), []).append(entry)
    return regressions


def _sortable(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested facts as dotted names; long lists are cut."""
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
