"""Paired comparisons with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from otcache.report.analysis import best_methods, paired_comparisons
from otcache.report.gallery import spread
from otcache.report.results import Cell, Results
from otcache.report.tables import markdown_table, paired_markdown
from otcache.report.terminal import paired_table


def _results(ours: list[float], theirs: list[float]) -> Results:
    cells = [
        Cell(name, 5, 5, 6.0, None, None, {"rmse": tuple(values)})
        for name, values in (("uniform", theirs), ("otcache", ours))
    ]
    labels = tuple((f"prompt {i // 2}", i % 2, "shape") for i in range(len(ours)))
    return Results("toy", 30, labels, tuple(cells))


def test_a_constant_gain_has_an_interval_of_no_length() -> None:
    theirs = [0.1, 0.5, 0.2, 0.9]
    (pair,) = paired_comparisons(_results([t - 0.05 for t in theirs], theirs))
    assert pair.verdict == "better"
    assert pair.wins.mean == 1
    assert abs(pair.difference.mean + 0.05) < 1e-12
    assert pair.difference.half < 1e-12


def test_a_difference_that_changes_sign_is_none() -> None:
    (pair,) = paired_comparisons(_results([0.1, 0.1, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2]))
    assert pair.verdict == "no difference"
    assert pair.wins.mean == 0.5


def test_a_loss_is_called_one() -> None:
    (pair,) = paired_comparisons(_results([0.3, 0.4, 0.3, 0.4], [0.2, 0.2, 0.2, 0.2]))
    assert pair.verdict == "worse"


def test_a_metric_that_grows_with_quality_turns_the_verdict() -> None:
    def results(metric: str) -> Results:
        found = _results([30.0, 31.0, 32.0, 33.0], [20.0, 22.0, 21.0, 20.0])
        cells = tuple(replace(c, metrics={metric: c.metrics["rmse"]}) for c in found.cells)
        return replace(found, cells=cells)

    (psnr,), (lpips,) = (
        paired_comparisons(results("psnr"), "psnr"),
        paired_comparisons(results("lpips"), "lpips"),
    )
    assert (psnr.verdict, psnr.wins.mean) == ("better", 1.0)
    assert (lpips.verdict, lpips.wins.mean) == ("worse", 0.0)
    assert psnr.difference.mean == lpips.difference.mean > 0
    assert psnr.ratio is None


@pytest.mark.parametrize(("higher", "verdict"), [(True, "better"), (False, "worse")])
def test_a_foreign_metric_is_read_in_the_direction_that_it_says(higher: bool, verdict: str) -> None:
    found = _results([30.0, 31.0, 32.0, 33.0], [20.0, 22.0, 21.0, 20.0])
    cells = tuple(replace(c, metrics={"theirs": c.metrics["rmse"]}) for c in found.cells)
    results = replace(found, cells=cells, higher_is_better={"theirs": higher})
    (pair,) = paired_comparisons(results, "theirs")
    assert pair.verdict == verdict
    assert best_methods(results, 5, "theirs") == {"otcache" if higher else "uniform"}
    assert f"theirs {'↑' if higher else '↓'}" in markdown_table(results)
    assert Results.from_dict(results.to_dict()) == results


def test_ties_count_half_and_equal_methods_differ_by_nothing() -> None:
    (pair,) = paired_comparisons(_results([0.1, 0.2], [0.1, 0.2]))
    assert pair.wins.mean == 0.5
    assert pair.verdict == "no difference"
    (zeros,) = paired_comparisons(_results([0.0, 0.0], [0.0, 0.0]))
    assert zeros.ratio is None


def test_tables_name_the_baseline_and_the_verdict() -> None:
    results = _results([0.1, 0.1], [0.2, 0.2])
    assert "| uniform |" in paired_markdown(results)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(paired_table(results))
    assert "better" in captured.get()


def test_the_image_grid_goes_from_the_worst_sample_to_the_best() -> None:
    # Prompts 0, 1, 2 have errors (.3, .1), (.2, .25), (.05, .28): their worst are .3, .25, .28.
    results = _results([0.3, 0.1, 0.2, 0.25, 0.05, 0.28], [0.5] * 6)
    assert spread(results, 5, 3) == [0, 5, 3]
