"""Kinds of prompts: which of them a method hurts more than the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from otcache.report.scales import OURS, scale_of
from otcache.report.summary import ERROR
from otcache.results import Cell, Results
from otcache.statistics import tag_harm

#: Below this, over all tags of a cell together, a tag is called hurt.
LEVEL = 0.05


@dataclass(frozen=True)
class Harm:
    """A tag on which a cell is significantly worse than on the other prompts.

    Attributes:
        cell: whose.
        metric: by which measure.
        tag: the kind of prompt.
        inside, outside: mean of the finite values on the tag, and on the other samples.
        p: of "no worse than on the rest", corrected over tags.
    """

    cell: Cell
    metric: str
    tag: str
    inside: float
    outside: float
    p: float


def tags_of(label: str) -> tuple[str, ...]:
    """Single tags of a label's, which are joined by commas."""
    return tuple(tag for part in label.split(",") if (tag := part.strip()))


def tags(results: Results) -> tuple[str, ...]:
    """Distinct tags in the order of their first sample."""
    return tuple(dict.fromkeys(tag for _, _, text in results.labels for tag in tags_of(text)))


def harms(results: Results) -> list[Harm]:
    """Tags that caching hurts more than the rest.

    Tested are the RMSE of every method, and every metric of otcache: each cell's metric less what the
    full run itself has of it (nothing where the full run is the measure), by the permutation test of
    :func:`otcache.statistics.tag_harm`, for each tag against all samples without it, corrected over
    tags by Holm's method.
    """
    if len(tags(results)) < 2:
        return []
    return [
        harm
        for cell in results.cells
        for metric in cell.metrics
        if metric == ERROR or cell.method == OURS
        for harm in _of_cell(results, cell, metric)
    ]


def _of_cell(results: Results, cell: Cell, metric: str) -> Iterator[Harm]:
    values, higher = cell.metrics[metric], scale_of(results, metric).higher_is_better
    members = {
        tag: tuple(tag in tags_of(text) for _, _, text in results.labels) for tag in tags(results)
    }
    full = results.full_metrics.get(metric, (0.0,) * len(values))
    p = {tag: _p_value(values, full, has, results.prompts, higher) for tag, has in members.items()}
    corrected = 0.0
    for step, tag in enumerate(sorted(p, key=lambda tag: p[tag])):
        corrected = max(corrected, p[tag] * (len(p) - step))
        if corrected >= LEVEL:
            return
        inside = _mean(values, members[tag])
        outside = _mean(values, tuple(not has for has in members[tag]))
        yield Harm(cell, metric, tag, inside, outside, corrected)


@lru_cache(maxsize=4096)
def _p_value(
    values: tuple[float, ...],
    full: tuple[float, ...],
    inside: tuple[bool, ...],
    prompts: tuple[int, ...],
    higher: bool,
) -> float:
    sides = ["inside" if has else "outside" for has in inside]
    found = tag_harm(values, full, sides, prompts, higher_is_better=higher)
    return next((one.p for one in found if one.tag == "inside"), 1.0)


def _mean(values: tuple[float, ...], chosen: tuple[bool, ...]) -> float:
    finite = [v for v, use in zip(values, chosen, strict=True) if use and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.inf
