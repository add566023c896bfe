"""Tables of a report: terminal, Markdown, CSV; what is best, on the Pareto front, or a regression."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from otcache.comparison.timing import ABOVE
from otcache.report.analysis import (
    best_methods,
    headlines,
    shared_budgets,
    tag_regressions,
    tags,
    tags_of,
    worst_first,
)
from otcache.report.page import render
from otcache.report.plots import (
    GREY,
    MOST,
    SERIES,
    coloured,
    other_methods,
    pareto_front,
    series_of,
)
from otcache.report.results import Cell, Results
from otcache.report.tables import (
    COSTS,
    csv_table,
    document,
    markdown_table,
)
from otcache.report.terminal import rich_table, summary_table

sys.path.insert(0, str(Path(__file__).parent))
from report_fakes import (  # type: ignore[import-not-found]  # the folder is not a package
    compared_results,
    fake_results,
)

RESULTS = fake_results(budgets=(5, 10), seeds=1)
COMPARED = compared_results()


def few_metrics(results: Results) -> Results:
    """Return the same with RMSE alone: a third of a second in place of four."""
    cells = tuple(replace(c, metrics={"rmse": c.metrics["rmse"]}) for c in results.cells)
    return replace(results, cells=cells)


def printed(table: Table, width: int = 100) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_terminal_table_fits_100_columns() -> None:
    shown = printed(rich_table(RESULTS))
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert shown.count("▸ otcache") == 2
    assert "RMSE ↓" in shown
    assert "PSNR ↑" in shown


def test_the_figures_are_means_with_half_intervals() -> None:
    cell = RESULTS.cells[0]
    mean = np.mean(cell.metrics["rmse"])
    results = replace(RESULTS, calibration_nfe={"uniform": 8 * RESULTS.num_steps})
    row = next(line for line in printed(rich_table(results)).splitlines() if "uniform" in line)
    assert row.split()[:6] == ["5", "uniform", "8", "5.70", "±.12", "(6.0)"]
    assert row.split()[6] == f"{mean:.4f}".removeprefix("0")


def test_otcache_without_calibration_is_not_the_best_other_method() -> None:
    best = headlines(RESULTS)[0].baseline
    for name in ("otcache, no calibration", "otcache-uncalibrated"):
        cells = [replace(c, method=name) if c.method == best else c for c in RESULTS.cells]
        found = {one.baseline for one in headlines(replace(RESULTS, cells=tuple(cells)))}
        assert found
        assert not found & {name, "otcache"}


def test_evaluations_are_a_column_where_they_are_not_the_budget() -> None:
    plain, odd = RESULTS.cells[0], replace(RESULTS.cells[0], nfe=5.5)
    shown = printed(rich_table(replace(RESULTS, cells=(odd, *RESULTS.cells[1:]))))
    assert plain.nfe == plain.budget
    assert "NFE" in shown
    assert "NFE" not in printed(rich_table(RESULTS)).splitlines()[2]


def test_twenty_methods_fit_one_screen_of_104_columns() -> None:
    shown = printed(summary_table(COMPARED), 104)
    narrow = printed(summary_table(COMPARED, 80), 80)
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= 80
    assert "…" not in narrow
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 104
    assert len(shown.splitlines()) < 32
    row = next(line for line in shown.splitlines() if "teacache" in line)
    cell = COMPARED.cell("teacache", 10)
    assert cell is not None
    assert f"{np.mean(cell.metrics['rmse']):.4f}".removeprefix("0") + " (9.3)" in row
    gap = next(line for line in shown.splitlines() if "faster-cache" in line)
    assert gap.split()[2:5] == ["-", "-", "-"]


def test_metrics_that_were_asked_for_have_tables_of_their_own() -> None:
    asked = ("psnr", "rmse", "nowhere", "psnr")
    shown = printed(summary_table(RESULTS, metrics=asked), 104)
    lines = [line for line in shown.splitlines() if "full run of" in line]
    heads = [line.partition(": ")[2].split() or line.split() for line in lines]
    assert [head[0] for head in heads] == ["RMSE", "PSNR"]
    assert shown.count("B = 5") == 2
    assert shown.count("Bold: the best") == 1


def test_budgets_without_otcache_are_left_to_the_files() -> None:
    odd = replace(COMPARED.cells[-1], budget=22)
    results = replace(COMPARED, cells=(*COMPARED.cells, odd))
    assert shared_budgets(results) == (5, 6, 8, 10, 15)
    shown = printed(summary_table(results), 104)
    assert "B = 22" not in shown.splitlines()[1]
    assert "Only there: B = 15, 22." in " ".join(shown.split())
    others_only = tuple(c for c in COMPARED.cells if c.method != "otcache")
    assert shared_budgets(replace(COMPARED, cells=others_only)) == COMPARED.budgets


def test_markdown_marks_the_best_and_ours() -> None:
    lines = markdown_table(RESULTS).splitlines()
    ours = next(line for line in lines if "otcache" in line)
    assert ours.startswith("| 5 | **otcache** |")
    assert ours.count("**") == 2 * 5
    assert "**" not in next(line for line in lines if "uniform" in line)


def test_markdown_has_costs_gaps_sources_and_regressions() -> None:
    text = document(few_metrics(COMPARED))
    cell = COMPARED.cells[0]
    assert cell.peak_bytes is not None
    assert (
        f"| {cell.nfe} | {cell.measured_speedup:.2f} ±.10 (6.00) | 0.075 ±0.002 | 0.0205 | 67 |"
        in text
    )
    assert "| all | lora-cache | needs &lt;cuda> & 24 GB: none here |" in text
    assert "| 5, 6, 8 | pyramid-attention | the nearest setting" in text
    assert "| budcache | invented project 5, rule of budcache | 240 |" in text
    assert "The full run itself: Fréchet 14.20." in text
    assert "| 5 | otcache | RMSE | glyph |" in text
    assert all(line.count("|") > 3 for line in text.splitlines() if line.startswith("|"))


def test_a_withheld_speedup_is_a_dash_and_its_reason_is_told_once() -> None:
    untimed = {"measured_speedup": None, "speedup_spread": None}
    cells = [replace(c, **untimed, withheld=ABOVE) for c in RESULTS.cells[:2]]  # type: ignore[arg-type]
    results = few_metrics(replace(RESULTS, cells=(*cells, *RESULTS.cells[2:])))
    for shown in (printed(rich_table(results)), document(results), render(results)):
        text = " ".join(shown.split())
        assert text.count("- (6.0") == 2
        assert text.count("5.70 ±.12 (6.0") == 3
        assert text.count(f"Withheld (-) at 2 of 10, since {ABOVE}.") == 1
    rows = list(csv.DictReader(io.StringIO(csv_table(results))))
    assert [row["measured_speedup"] for row in rows[:3]] == ["", "", "5.7"]
    assert [row["withheld"] for row in rows[:3]] == [ABOVE, ABOVE, ""]
    never = [replace(c, **untimed) for c in RESULTS.cells]  # type: ignore[arg-type]
    for shown in (rich_table, markdown_table):
        made = shown(replace(RESULTS, cells=tuple(never)))
        assert "peedup" not in (made if isinstance(made, str) else printed(made))


def test_markdown_keeps_its_columns_whatever_a_method_is_called() -> None:
    cells = tuple(replace(c, method=c.method.replace("uniform", "a|b\nc")) for c in RESULTS.cells)
    assert "| a\\|b c |" in markdown_table(replace(RESULTS, cells=cells))


def test_identical_images_are_stated() -> None:
    cell = RESULTS.cells[0]
    metrics = {
        "rmse": (0.0, *cell.metrics["rmse"][1:]),
        "psnr": (float("inf"), *cell.metrics["psnr"][1:]),
    }
    results = replace(RESULTS, cells=(replace(cell, metrics=metrics), *RESULTS.cells[1:]))
    text = markdown_table(results)
    assert "1 identical images have no finite PSNR" in text
    assert text.splitlines()[0].endswith("| identical |")
    assert text.splitlines()[2].endswith("| 1 |")
    row = next(csv.DictReader(io.StringIO(csv_table(results))))
    assert (row["identical"], row["psnr_infinite"], row["psnr_count"]) == ("1", "1", "5")


def test_csv_has_full_precision_and_gaps_are_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(COMPARED))))
    assert len(rows) == len(COMPARED.cells)
    for row, cell in zip(rows, COMPARED.cells, strict=True):
        assert (row["method"], int(row["budget"])) == (cell.method, cell.budget)
        assert float(row["rmse_mean"]) == pytest.approx(np.mean(cell.metrics["rmse"]), rel=1e-12)
        assert float(row["rmse_low"]) < float(row["rmse_mean"]) < float(row["rmse_high"])
        assert float(row["frechet"]) == cell.totals["frechet"]
        assert float(row["flops"]) == cell.flops
    assert "| 5 |" in markdown_table(RESULTS)
    assert "TFLOPs" not in markdown_table(RESULTS)
    bare = Cell("otcache", 5, 5, 6.0, None, None, {"rmse": (0.1, 0.2)})
    alone = Results("toy", 30, (("a", 0, ""), ("b", 0, "")), (bare,))
    (row,) = csv.DictReader(io.StringIO(csv_table(alone)))
    assert {row[name] for name in COSTS[2:]} == {""}


def test_best_follows_the_metric_s_direction() -> None:
    assert best_methods(RESULTS, 5, "rmse") == {"otcache"}
    assert best_methods(RESULTS, 5, "psnr") == {"otcache"}
    assert best_methods(COMPARED, 5, "frechet") == {"otcache"}
    assert best_methods(RESULTS, 5, "no such metric") == set()


def test_headlines_compare_with_the_best_other_method() -> None:
    found = headlines(RESULTS)
    assert [(one.budget, one.baseline, one.verdict) for one in found] == [
        (5, "Adams-Bashforth", "lower"),
        (10, "Adams-Bashforth", "lower"),
    ]
    swapped = {"otcache": "Adams-Bashforth", "Adams-Bashforth": "otcache"}
    cells = tuple(replace(c, method=swapped.get(c.method, c.method)) for c in RESULTS.cells)
    assert {one.verdict for one in headlines(replace(RESULTS, cells=cells))} == {"higher"}


def test_worst_cases_come_first() -> None:
    cell = RESULTS.cell("otcache", 5)
    assert cell is not None
    errors = [cell.metrics["rmse"][i] for i in worst_first(RESULTS, 5)]
    assert errors == sorted(errors, reverse=True)


def _toy(points: dict[str, list[tuple[float, float]]]) -> Results:
    """Methods with (evaluations, RMSE) at budgets 1, 2, ..."""
    cells = [
        Cell(name, budget, nfe, 30 / nfe, None, None, {"rmse": (error, error)})
        for name, places in points.items()
        for budget, (nfe, error) in enumerate(places, 1)
    ]
    return Results("toy", 30, (("a", 0, ""), ("b", 0, "")), tuple(cells))


def test_the_front_is_peeled_and_leaves_otcache_out() -> None:
    results = _toy(
        {
            "beaten twice": [(9, 0.9)],
            "beaten once": [(6, 0.5)],
            "on it": [(5, 0.3)],
            "otcache": [(1, 0.01)],
            "cheap": [(2, 0.9), (20, 0.9)],
            "on it twice": [(6, 0.2), (9, 0.1)],
        }
    )
    wanted = ("on it twice", "on it", "cheap", "beaten once", "beaten twice")
    assert pareto_front(results, "rmse") == wanted
    assert other_methods(results) == wanted


def test_a_method_on_the_front_is_beaten_by_nobody() -> None:
    # By definition, over all pairs of cells: whoever is beaten nowhere must be among the coloured.
    for metric, sign in (("rmse", 1), ("psnr", -1), ("frechet", 1)):
        mean = {
            (c.method, c.nfe): sign * float(np.mean(c.metrics.get(metric, c.totals.get(metric))))
            for c in COMPARED.cells
            if c.method != "otcache"
        }
        free = {
            m
            for (m, nfe), q in mean.items()
            if not any(n <= nfe and r <= q and (n, r) != (nfe, q) for (_, n), r in mean.items())
        }
        found = pareto_front(COMPARED, metric)
        assert len(found) == MOST
        assert free <= set(found)
        assert coloured(COMPARED, metric) == ("otcache", *found)


def test_coloured_methods_differ_in_colour_and_keep_it_where_they_can() -> None:
    assert coloured(RESULTS, "rmse") == RESULTS.methods
    assert sorted(series_of(RESULTS, "rmse").values()) == [0, 1, 2, 3, 4]
    by_metric = {metric: series_of(COMPARED, metric) for metric in COMPARED.metrics}
    for metric, series in by_metric.items():
        assert set(series) == set(coloured(COMPARED, metric))
        assert len(set(series.values())) == len(series) == MOST + 1
        assert series["otcache"] == 0
    assert by_metric["ssim"] == by_metric["rmse"]


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_curves_and_their_names_stand_out_in_light_and_dark() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    for ink in SERIES:
        assert _contrast(ink.light, "#ffffff") >= 4.5
        assert _contrast(ink.dark, "#1a2029") >= 4.5
    assert _contrast(GREY.light, "#ffffff") >= 3
    assert _contrast(GREY.dark, "#1a2029") >= 3


def test_tags_are_split_at_commas() -> None:
    assert tags_of(" emoji, small ,") == ("emoji", "small")
    assert tags_of("") == ()
    assert tags(COMPARED) == ("shape", "pair", "glyph", "emoji", "small")


def test_the_planted_tag_is_a_regression_and_no_other() -> None:
    found = tag_regressions(COMPARED)
    assert {one.tag for one in found} == {"glyph"}
    assert {one.cell.budget for one in found if one.cell.method == "otcache"} == set(
        COMPARED.budgets
    )
    assert {h.metric for h in found if h.cell.method != "otcache"} == {"rmse"}
    worst = next(h for h in found if (h.cell.method, h.metric) == ("otcache", "rmse"))
    glyph = [t == "glyph" for _, _, t in COMPARED.labels]
    values = np.array(worst.cell.metrics["rmse"])
    assert worst.inside == pytest.approx(values[glyph].mean())
    assert worst.outside == pytest.approx(values[~np.array(glyph)].mean())
    assert worst.p < 0.05
    psnr = next(h for h in found if (h.cell.method, h.metric) == ("otcache", "psnr"))
    assert psnr.inside < psnr.outside


def test_tags_without_an_effect_seldom_warn() -> None:
    alarms, runs = 0, 60
    rng = np.random.default_rng(5)
    for _ in range(runs):
        values = tuple(map(float, rng.lognormal(0, 0.5, 16)))
        cell = Cell("otcache", 5, 5, 6.0, None, None, {"rmse": values})
        labels = tuple((f"prompt {i}", 0, "abcd"[i % 4]) for i in range(16))
        alarms += bool(tag_regressions(Results("toy", 30, labels, (cell,))))
    # 5 % of 60 is 3; more than 8 would come by chance in less than 1 % of such tests.
    assert alarms <= 8


def test_one_tag_or_none_is_no_kind_to_compare() -> None:
    for tag in ("", "all alike"):
        labels = tuple((prompt, seed, tag) for prompt, seed, _ in COMPARED.labels)
        assert tag_regressions(replace(COMPARED, labels=labels)) == []
