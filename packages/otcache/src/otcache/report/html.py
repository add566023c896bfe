"""The page: everything in one file that asks the network for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from otcache.report.canvas import draw_svg
from otcache.report.pictures import Pictures
from otcache.report.plots import error_plot, strips_plot, strips_size
from otcache.report.scales import OURS, scale_of
from otcache.report.summary import best_methods, headlines
from otcache.report.table import caption, figure, speedup
from otcache.report.wall import wall
from otcache.results import Results


def render(results: Results, pictures: Pictures | None = None) -> str:
    """The report as one HTML document: readable on a phone, in light and dark, without a network.

    Whatever comes from outside (title, prompts, tags, method names, provenance, the command) is
    escaped; a content security policy forbids the page to load anything.

    Args:
        results: the figures.
        pictures: (method, budget) to (n, height, width, 3) in [0, 1], with ("full", N); None
            leaves the picture wall out.

    Raises:
        OtcacheError: if pictures do not fit the results.
    """
    environment = Environment(
        loader=PackageLoader("otcache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = wall(results, pictures) if pictures else []
    return environment.get_template("report.html.j2").render(
        results=results,
        ours=OURS,
        headlines=headlines(results),
        ratio=_ratio,
        table=list(_table(results)),
        scales=[scale_of(metric) for metric in results.metrics],
        caption=caption(results),
        plots=_plots(results),
        cards=cards,
        provenance=list(_flat(results.provenance)),
        price=sum(results.ledger.values()),
    )


_PLOT_SIZE = (4.4, 3.5)  # inches: narrow, so that its letters can be read on a phone
_ERROR_LABEL = "RMSE against the full run for each method and budget; the table has the figures"
_STRIPS_LABEL = "Steps that each method computes at each budget; listed below as text"


def _plots(results: Results) -> dict[str, Markup]:
    """SVG elements; matplotlib escapes the names in them."""
    strip = (_PLOT_SIZE[0], strips_size(results)[1])
    return {
        "error": Markup(draw_svg(error_plot(results), _PLOT_SIZE, "error", _ERROR_LABEL)),
        "strips": Markup(draw_svg(strips_plot(results), strip, "strips", _STRIPS_LABEL)),
    }


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _table(results: Results) -> Iterator[dict[str, Any]]:
    for budget in results.budgets:
        best = {metric: best_methods(results, budget, metric) for metric in results.metrics}
        for place, cell in enumerate(results.at(budget)):
            yield {
                "cell": cell,
                "first": place == 0,
                "rows": len(results.at(budget)),
                "ours": cell.method == OURS,
                "speedup": speedup(cell),
                "figures": [
                    (figure(results, cell, metric), cell.method in best[metric])
                    for metric in results.metrics
                ],
            }


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
