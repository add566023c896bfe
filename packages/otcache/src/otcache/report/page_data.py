"""What the page's scripts read: the figures as plain data, safe inside an HTML document."""

from __future__ import annotations

import json
import math
from typing import Any

from markupsafe import Markup

from otcache.report.duels import duels
from otcache.report.palette import series_of
from otcache.report.scales import OURS, scale_of
from otcache.report.summary import interval, noun, shared_budgets, totals
from otcache.report.tags import harms, tags, tags_of
from otcache.results import Cell, Results


def page_data(results: Results) -> dict[str, Any]:
    """Figures, intervals, paired differences and harms of every metric."""
    return {
        "ours": OURS,
        "noun": noun(results),
        "steps": results.num_steps,
        "methods": results.methods,
        "budgets": results.budgets,
        "shared": shared_budgets(results),
        "metrics": [_metric(results, name) for name in (*results.metrics, *totals(results))],
        "tags": tags(results),
        "samples": [
            {"prompt": prompt, "seed": seed, "tags": tags_of(text)}
            for prompt, seed, text in results.labels
        ],
        "cells": [_cell(results, cell) for cell in results.cells],
        "duels": {metric: _duels(results, metric) for metric in results.metrics},
        "harms": [
            [results.methods.index(h.cell.method), h.cell.budget, h.metric, h.tag, _short(h.p)]
            for h in harms(results)
        ],
    }


def as_script(data: Any) -> Markup:
    """JSON that no HTML parser can mistake for markup: no ``<``, ``>`` or ``&`` in it.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _metric(results: Results, name: str) -> dict[str, Any]:
    scale = scale_of(results, name)
    return {
        "name": name,
        "label": scale.label,
        "higher": scale.higher_is_better,
        "digits": scale.digits,
        "meaning": scale.meaning,
        "total": name not in results.metrics,
        "full": _short(results.full.get(name)),
        "front": {
            results.methods.index(method): series
            for method, series in series_of(results, name).items()
            if method in results.methods
        },
    }


def _cell(results: Results, cell: Cell) -> dict[str, Any]:
    found = {name: interval(results, cell, name) for name in cell.metrics}
    return {
        "m": results.methods.index(cell.method),
        "b": cell.budget,
        "nfe": _short(cell.nfe),
        "time": _short(1 / cell.measured_speedup if cell.measured_speedup else None),
        "flops": _short(cell.flops),
        "setting": cell.setting,
        "figures": {
            **{name: [*map(_short, (i.mean, i.low, i.high))] for name, i in found.items()},
            **{name: [_short(value)] for name, value in cell.totals.items()},
        },
        "values": {name: [*map(_short, values)] for name, values in cell.metrics.items()},
    }


def _duels(results: Results, metric: str) -> list[list[Any]]:
    return [
        [
            duel.budget,
            results.methods.index(duel.rival),
            *map(_short, (duel.difference.mean, duel.difference.low, duel.difference.high)),
            *map(_short, (duel.wins.mean, duel.wins.low, duel.wins.high)),
            duel.verdict,
        ]
        for duel in duels(results, metric)
    ]


def _short(value: float | None) -> float | None:
    """Five digits; None for what JSON cannot say."""
    return None if value is None or math.isinf(value) else float(f"{value:.5g}")
