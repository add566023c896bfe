"""The page in a real browser, at a desk's width and at a phone's; needs playwright and chromium."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otcache.report.album import Album
from otcache.report.html import render
from otcache.results import Results

sys.path.insert(0, str(Path(__file__).parent))
from report_fakes import (  # type: ignore[import-not-found]  # the folder is no package
    arena_results,
    fake_pictures,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install it")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
SIZES = {"desk": (1280, 900), "phone": (360, 780)}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"


def _results() -> Results:
    """Twenty-one methods, three metrics, prompts that try to break out."""
    results = arena_results(budgets=(5, 10), prompts=8)
    cells = []
    for cell in results.cells:
        metrics = {name: cell.metrics[name] for name in ("rmse", "psnr")}
        cells.append(replace(cell, metrics=metrics))
    labels = tuple((f"{EVIL} {prompt}", seed, tags) for prompt, seed, tags in results.labels)
    return replace(results, cells=tuple(cells), labels=labels, title=f"{EVIL} arena")


RESULTS = _results()
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(RESULTS, Album.of(RESULTS, fake_pictures(RESULTS, size=16))))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Opens the page; at the end nothing may have been said, asked for or popped up."""
    noise: list[str] = []
    contexts = []

    def open_one(size: str = "desk", **options: Any) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: noise.append(f"console {m.type}: {m.text}"))
        page.on("pageerror", lambda error: noise.append(f"error: {error}"))
        page.on("dialog", lambda box: (noise.append(f"dialog: {box.message}"), box.dismiss()))
        page.on("request", lambda r: r.url.startswith("data:") or noise.append(f"asked: {r.url}"))
        page.goto(address)
        assert noise.pop(0) == f"asked: {address}"
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert noise == []


sizes = pytest.mark.parametrize("size", list(SIZES))


def _captions(page: Any) -> list[str]:
    card = page.locator("#wall .card").first
    return [text.split("\n")[0] for text in card.locator(".caption").all_inner_texts()]


def _open_chooser(page: Any) -> None:
    page.locator("#tiles-said").focus()
    page.keyboard.press("Enter")


@sizes
def test_the_page_never_scrolls_sideways(open_page: Open, size: str) -> None:
    page = open_page(size)
    _open_chooser(page)
    for part in page.locator("#schedules details:not([open])").all():
        part.locator("summary").click()
    page.locator("#all-budgets").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]


@sizes
def test_every_picture_loads_and_has_words(open_page: Open, size: str) -> None:
    page = open_page(size)
    _open_chooser(page)
    page.locator("#every-tile").click()
    for budget in RESULTS.budgets:
        page.select_option("#budget", str(budget))
        page.evaluate("Promise.all(Array.from(document.images, (image) => image.decode()))")
        pictures = page.evaluate(
            "Array.from(document.images, (image) => [image.naturalWidth, image.alt])"
        )
        # Each card: a tile for every method there, and two pictures in the large view.
        assert len(pictures) == len(RESULTS.labels) * (len(RESULTS.at(budget)) + 2)
        assert all(width == 16 and words for width, words in pictures)


@sizes
def test_the_slider_works_by_keyboard_and_by_mouse(open_page: Open, size: str) -> None:
    page = open_page(size)
    card = page.locator("#wall .card").first
    slider, frame = card.locator("input[type=range]"), card.locator(".compare")
    cut = "(frame) => frame.style.getPropertyValue('--cut')"
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert frame.evaluate(cut) == "53%"
    assert slider.get_attribute("aria-valuetext") == "53 % full run"
    page.keyboard.press("Home")
    assert frame.evaluate(cut) == "0%"
    box = frame.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 20)
    page.mouse.up()
    assert slider.input_value() == "75"
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 20)
    assert frame.evaluate(cut) == "75%"


def test_a_tile_comes_beside_the_full_run(open_page: Open) -> None:
    page = open_page()
    card = page.locator("#wall .card").first
    assert "otcache at budget 5" in str(card.locator(".after img").get_attribute("alt"))
    card.locator("button.tile", has_text="uniform").click()
    assert "uniform at budget 5" in str(card.locator(".after img").get_attribute("alt"))
    assert card.locator('button.tile[aria-pressed="true"]').count() == 1
    card.locator("button.tile", has_text="budcache").focus()
    page.keyboard.press("Enter")
    assert card.locator(".ends").inner_text().split("\n") == ["full run", "budcache"]


@sizes
def test_filters_work_by_mouse_and_keyboard(open_page: Open, size: str) -> None:
    page = open_page(size)
    page.select_option("#tag", "glyph")
    headings = page.locator("#wall .card h3").all_inner_texts()
    assert len(headings) == 2
    assert all("glyph" in heading for heading in headings)
    page.select_option("#tag", "")
    _open_chooser(page)
    before = _captions(page)
    page.locator('#methods input[value="budcache"]').focus()
    page.keyboard.press("Space")
    assert _captions(page) == [name for name in before if name != "budcache"]
    page.locator('#methods label:has(input[value="otcache"])').click()
    assert _captions(page) == [name for name in before if name not in ("budcache", "otcache")]
    page.locator("#budget").focus()
    page.keyboard.press("ArrowDown")
    assert "B = 10" in page.locator("#wall-said").inner_text()
    assert page.locator('#all tbody[data-budget="5"]').is_hidden()
    assert page.locator('#all tbody[data-budget="10"]').is_visible()
    assert page.locator('#schedules details[data-budget="10"][open]').count() == 1


def test_the_worst_cases_of_any_method_and_metric_come_first(open_page: Open) -> None:
    page = open_page()
    for method, metric, place in (("otcache", "rmse", "0"), ("uniform", "psnr", "1")):
        page.select_option("#metric", place)
        page.select_option("#judge", str(RESULTS.methods.index(method)))
        values = RESULTS.cell(method, 5).metrics[metric]
        sign = 1 if metric == "psnr" else -1
        order = sorted(range(len(values)), key=lambda i: sign * values[i])
        headings = page.locator("#wall .card h3").all_inner_texts()
        assert all(
            heading.startswith(RESULTS.labels[i][0])
            for heading, i in zip(headings, order, strict=True)
        )


def test_the_difference_view_is_dark_where_pictures_agree(open_page: Open) -> None:
    page = open_page()
    page.locator("#views label", has_text="difference").click()
    view = page.locator("#wall .tile .view").first
    assert view.evaluate("(v) => getComputedStyle(v).filter") == "brightness(4)"
    assert view.evaluate("(v) => getComputedStyle(v, '::after').mixBlendMode") == "difference"


def test_curves_follow_the_metric_the_axis_and_the_legend(open_page: Open) -> None:
    page = open_page()
    assert page.locator("#chart .curve").count() == len(RESULTS.methods)
    assert page.locator("#chart .curve.front").count() == 7
    page.select_option("#metric", label="Fréchet ↓")
    label = page.locator("#chart svg").get_attribute("aria-label")
    assert "Fréchet against network evaluations" in label
    assert page.locator("#chart .fullrun").count() == 1
    assert page.locator("#chart .band").count() == 0
    page.locator("#axes label", has_text="seconds").click()
    assert "seconds a picture" in page.locator("#chart svg").get_attribute("aria-label")
    page.locator("#draw-front").click()
    assert page.locator("#chart .curve").count() == 7
    page.locator("#legend label", has_text="otcache").locator("input").focus()
    page.keyboard.press("Space")
    assert page.locator("#chart .curve").count() == 6
    page.locator("#draw-all").click()
    page.locator("#legend label", has_text="first-block-cache").locator("input").focus()
    said = page.locator("#chart-said").inner_text()
    assert said.startswith("first-block-cache: 5.6 NFE, 0.102 s: ")
    assert page.locator("#chart .curve.near").count() == 1


def test_a_point_under_the_pointer_is_named(open_page: Open) -> None:
    page = open_page()
    page.locator("#chart .curve.ours .mark").first.hover(force=True)
    tip = page.locator("#tip").inner_text()
    assert tip.startswith("otcache\n5 NFE: ")
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_duels_and_tags_follow_metric_and_budget(open_page: Open) -> None:
    page = open_page()
    assert page.locator("#duel-rows tr").count() == len(RESULTS.at(5)) - 1
    page.select_option("#budget", "10")
    assert page.locator("#duel-rows tr").count() == len(RESULTS.at(10)) - 1
    assert "RMSE at B = 10: otcache is better than" in page.locator("#duel-said").inner_text()
    row = page.locator("#tag-rows tr.ours td").all_inner_texts()
    assert len(row) == 6
    page.select_option("#metric", label="Fréchet ↓")
    assert page.locator("#duel-none").is_visible()
    assert page.locator("#tag-none").is_visible()


def test_the_table_is_sorted_at_a_click(open_page: Open) -> None:
    page = open_page()
    heads = page.locator("#all thead button").all_inner_texts()
    column = heads.index("RMSE ↓")
    figures = f'#all tbody[data-budget="5"] tr:not(.group) > :nth-child({column + 1})'
    read = "(cells) => cells.map((cell) => Number(cell.dataset.v))"
    page.locator("#all thead button").nth(column).click()
    up = page.locator(figures).evaluate_all(read)
    assert up == sorted(up)
    page.locator("#all thead button").nth(column).focus()
    page.keyboard.press("Enter")
    assert page.locator(figures).evaluate_all(read) == up[::-1]
    assert page.locator("#all thead th").nth(column).get_attribute("aria-sort") == "descending"


def test_every_control_has_a_name(open_page: Open) -> None:
    page = open_page()
    controls = "button, select, input, summary, a, [role=region], [role=group], [role=img]"
    unnamed = page.locator(controls).evaluate_all(
        """(all) => all.filter((e) => !(
            e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.[0]?.textContent.trim()
        )).map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    poor = page.evaluate(CONTRAST)
    assert poor == []


def test_without_scripts_the_figures_are_there(open_page: Open) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator("#all tbody").count() == 2
    assert all(body.is_visible() for body in page.locator("#all tbody").all())
    assert page.locator("#chart noscript svg, #chart svg").first.is_visible()
    assert page.locator(".bar").is_hidden()
    assert page.locator("#duels").is_hidden()


def test_paper_shows_all_sections_and_no_controls(open_page: Open) -> None:
    page = open_page()
    page.emulate_media(media="print")
    assert page.locator(".bar").is_hidden()
    assert page.locator("#pictures .controls").is_hidden()
    assert page.locator("#chart svg").is_visible()
    assert page.locator("#wall .card").count() == 8


# Contrast by the formula of WCAG 2.2, 1.4.3: 4.5, or 3 for large letters; opacity is not looked at.
CONTRAST = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      const alpha = parts(color)[3] ?? 1;
      if (alpha === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility?.() || e.closest("script, .sr")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(e.closest("svg") ? style.fill : style.color), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) poor.add(`${e.tagName}.${e.className} ${ratio.toFixed(2)}`);
  }
  return Array.from(poor);
}"""
