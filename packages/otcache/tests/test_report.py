"""The report's files from invented results; no browser is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from otcache.report import write_report
from otcache.report.grid import grid_png, spread
from otcache.report.html import render
from otcache.report.pictures import png, shrink
from otcache.report.summary import best_methods, headlines, worst_first
from otcache.report.table import markdown_table, rich_table
from otcache.results import Results
from otcache_core import FileError, OtcacheError

sys.path.insert(0, str(Path(__file__).parent))
from report_fakes import (  # type: ignore[import-not-found]  # the folder is no package
    fake_pictures,
    fake_results,
)

RESULTS = fake_results(budgets=(5, 10), seeds=1)
PICTURES = fake_pictures(RESULTS, size=32)


class Page(HTMLParser):
    """Collects tags, their attributes, and what each id is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def text() -> str:
    return render(RESULTS, PICTURES)


def printed(results: Results, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rich_table(results))
    return console.export_text()


def test_the_terminal_table_fits_100_columns() -> None:
    shown = printed(RESULTS)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert shown.count("▸ otcache") == 2
    assert "RMSE ↓" in shown
    assert "PSNR ↑" in shown


def test_the_figures_are_means_with_half_intervals() -> None:
    cell = RESULTS.cells[0]
    mean = np.mean(cell.metrics["rmse"])
    row = next(line for line in printed(RESULTS).splitlines() if "uniform" in line).split()
    assert row[:5] == ["5", "uniform", "5", "5.70", "(6.00)"]
    assert row[5] == f"{mean:.4f}".removeprefix("0")


def test_markdown_marks_the_best_and_ours() -> None:
    lines = markdown_table(RESULTS).splitlines()
    ours = next(line for line in lines if "otcache" in line)
    assert ours.startswith("| 5 | **otcache** |")
    assert ours.count("**") == 2 * 5
    assert "**" not in next(line for line in lines if "uniform" in line)


def test_markdown_keeps_its_columns_whatever_a_method_is_called() -> None:
    cells = tuple(replace(c, method=c.method.replace("uniform", "a|b")) for c in RESULTS.cells)
    assert "a\\|b" in markdown_table(replace(RESULTS, cells=cells))


def test_identical_pictures_are_stated() -> None:
    cell = RESULTS.cells[0]
    metrics = {**cell.metrics, "psnr": (float("inf"), *cell.metrics["psnr"][1:])}
    results = replace(RESULTS, cells=(replace(cell, metrics=metrics), *RESULTS.cells[1:]))
    assert "1 identical pictures have no finite PSNR" in markdown_table(results)


def test_best_follows_the_metric_s_direction() -> None:
    assert best_methods(RESULTS, 5, "rmse") == {"otcache"}
    assert best_methods(RESULTS, 5, "psnr") == {"otcache"}
    assert best_methods(RESULTS, 5, "no such metric") == set()


def test_headlines_compare_with_the_best_other_method() -> None:
    found = headlines(RESULTS)
    assert [(one.budget, one.rival, one.verdict) for one in found] == [
        (5, "Adams-Bashforth", "lower"),
        (10, "Adams-Bashforth", "lower"),
    ]
    swapped = {"otcache": "Adams-Bashforth", "Adams-Bashforth": "otcache"}
    cells = tuple(replace(c, method=swapped.get(c.method, c.method)) for c in RESULTS.cells)
    assert {one.verdict for one in headlines(replace(RESULTS, cells=cells))} == {"higher"}


def test_without_a_rival_there_is_no_headline() -> None:
    alone = tuple(c for c in RESULTS.cells if c.method == "otcache")
    results = replace(RESULTS, cells=alone)
    assert headlines(results) == []
    assert "no budget at which both" in render(results)


def test_the_page_loads_nothing(text: str) -> None:
    page = Page(text)
    assert all(str(img["src"]).startswith("data:image/png;base64,") for img in page.every("img"))
    assert all("src" not in script for script in page.every("script"))
    assert [link["href"] for link in page.every("link")] == ["data:,"]
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "url(http" not in text
    policy = next(m for m in page.every("meta") if m.get("http-equiv"))
    assert str(policy["content"]).startswith("default-src 'none'")


def test_prompts_and_names_are_escaped() -> None:
    evil = "</script><script>alert(1)</script>\"' $x_$^"
    cells = tuple(
        replace(c, method=evil if c.method == "uniform" else c.method) for c in RESULTS.cells
    )
    labels = tuple((evil, seed, evil) for _, seed, _ in RESULTS.labels)
    results = replace(
        RESULTS, title=evil, labels=labels, cells=cells, provenance={evil: evil}, command=evil
    )
    pictures = {(evil if m == "uniform" else m, b): p for (m, b), p in PICTURES.items()}
    text = render(results, pictures)
    assert "<script>alert" not in text
    assert len(Page(text).every("script")) == 1


def test_every_picture_has_words_and_every_id_is_unique(text: str) -> None:
    page = Page(text)
    assert len(page.every("img")) == len(RESULTS.labels) * (1 + 2 * 5)
    assert all(img["alt"] for img in page.every("img"))
    ids = [str(attrs["id"]) for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for a in page.every("a") if str(a.get("href")).startswith("#")}
    targets |= {str(use["href"])[1:] for use in page.every("use")}
    assert targets <= set(ids)


def test_only_the_lowest_budget_is_open_at_first(text: str) -> None:
    tiles = [f for f in Page(text).every("figure") if "data-budget" in f]
    assert {f["data-budget"] for f in tiles if "hidden" not in f} == {"5"}
    assert {f["data-budget"] for f in tiles if "hidden" in f} == {"10"}


def test_the_page_states_price_provenance_and_command(text: str) -> None:
    assert "otcache demo --out otcache-demo" in text
    assert "anchor search" in text
    assert f"{sum(RESULTS.ledger.values()):,}" in text
    assert "versions.torch" in text


def test_without_pictures_there_is_no_wall() -> None:
    text = render(RESULTS)
    assert "<script" not in text
    assert 'id="pictures"' not in text


def test_worst_cases_come_first() -> None:
    cell = RESULTS.cell("otcache", 5)
    assert cell is not None
    errors = [cell.metrics["rmse"][i] for i in worst_first(RESULTS, 5)]
    assert errors == sorted(errors, reverse=True)


def test_the_grid_spreads_over_distinct_prompts() -> None:
    results = fake_results()
    chosen = spread(results, 5, 4)
    assert chosen[0] == worst_first(results, 5)[0]
    assert len({results.prompts[i] for i in chosen}) == 4


def test_all_files_are_written(tmp_path: Path) -> None:
    written = write_report(RESULTS, PICTURES, tmp_path / "new" / "folder")
    names = "report.html table.md error.png schedules.png grid.png results.json"
    assert [path.name for path in written] == names.split()
    assert all(path.stat().st_size > 500 for path in written)
    assert Results.load(written[-1]) == replace(
        RESULTS, provenance={**RESULTS.provenance, "grid": list(RESULTS.provenance["grid"])}
    )
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in written if p.suffix == ".png")


def test_the_same_results_give_the_same_page(text: str) -> None:
    assert render(RESULTS, PICTURES) == text
    assert grid_png(RESULTS, PICTURES) == grid_png(RESULTS, PICTURES)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileError, match="taken: cannot be made a folder"):
        write_report(RESULTS, None, tmp_path / "taken")


def test_pictures_that_do_not_fit_are_named() -> None:
    with pytest.raises(OtcacheError, match=r"\('full', 30\)"):
        render(RESULTS, {("otcache", 5): PICTURES["otcache", 5]})
    with pytest.raises(OtcacheError, match=r"\('otcache', 5\).*of shape"):
        render(RESULTS, {**PICTURES, ("otcache", 5): PICTURES["otcache", 5][1:]})
    with pytest.raises(OtcacheError, match="uint8"):
        render(
            RESULTS, {**PICTURES, ("otcache", 5): (PICTURES["otcache", 5] * 255).astype("uint8")}
        )


def test_large_pictures_shrink_by_block_means() -> None:
    picture = np.zeros((500, 300, 3))
    picture[::2] = 1.0
    small = shrink(picture, 256)
    assert small.shape == (250, 150, 3)
    assert np.all(small == 0.5)
    assert shrink(picture, 500) is not None
    assert shrink(picture, 500).shape == picture.shape
    assert len(png(small)) < 2000


def test_one_sample_one_budget_and_an_error_of_zero() -> None:
    cell = replace(RESULTS.cells[-1], metrics={"rmse": (0.0,), "psnr": (float("inf"),)})
    results = replace(RESULTS, labels=RESULTS.labels[:1], cells=(cell,), ledger={}, provenance={})
    pictures = {("full", 30): np.zeros((1, 16, 16, 3)), ("otcache", 10): np.zeros((1, 16, 16, 3))}
    assert "∞" in render(results, pictures)
    assert grid_png(results, pictures)
    assert "∞" in printed(results)


def test_plots_are_imported_on_use_and_leave_no_global_state() -> None:
    code = (
        "import sys, otcache.report, otcache.report.html, otcache.results, otcache.statistics;"
        "assert 'matplotlib' not in sys.modules; assert 'torch' not in sys.modules;"
        "import matplotlib; names = ['font.size', 'svg.hashsalt', 'text.color'];"
        "before = [matplotlib.rcParams[n] for n in names];"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import report_fakes as f;"
        "otcache.report.html.render(f.fake_results((5,), 1));"
        "assert before == [matplotlib.rcParams[n] for n in names];"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
