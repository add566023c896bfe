"""The page in a real browser, at a desk's width and at a phone's; needs playwright and chromium."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otcache.report.images import Album
from otcache.report.page import render
from otcache.report.results import Results

sys.path.insert(0, str(Path(__file__).parent))
from report_fakes import (  # type: ignore[import-not-found]  # the folder is not a package
    compared_results,
    fake_images,
    fake_videos,
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
    results = compared_results(budgets=(5, 10), prompts=8)
    cells = []
    for cell in results.cells:
        metrics = {name: cell.metrics[name] for name in ("rmse", "psnr")}
        cells.append(replace(cell, metrics=metrics))
    labels = tuple((f"{EVIL} {prompt}", seed, tags) for prompt, seed, tags in results.labels)
    return replace(results, cells=tuple(cells), labels=labels, title=f"{EVIL} comparison")


RESULTS = _results()
FRAMES = 9
FILM = replace(compared_results(budgets=(5,), prompts=4, methods=6), frames_per_second=20.0)
Open = Callable[..., Any]


def _videos() -> dict[tuple[str, int], np.ndarray]:
    """Return the frame, which the red of the first pixel says."""
    videos = fake_videos(FILM, size=16, frames=FRAMES)
    for stack in videos.values():
        stack[:, :, 0, 0, 0] = np.arange(FRAMES) * 20 / 255
    return videos


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(RESULTS, Album.of(RESULTS, fake_images(RESULTS, size=16))))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="module")
def film_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("film") / "report.html"
    path.write_text(render(FILM, Album.of(FILM, _videos())))
    return path.as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Open the page of images."""
    with _quiet(browser, address) as opened:
        yield opened


@pytest.fixture
def open_film(browser: Any, film_address: str) -> Iterator[Open]:
    """Open the page of videos."""
    with _quiet(browser, film_address) as opened:
        yield opened


@contextmanager
def _quiet(browser: Any, address: str) -> Iterator[Open]:
    """Open a page; at the end nothing may have been said, asked for or popped up."""
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
    card = page.locator("#gallery .card").first
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
def test_every_image_loads_and_has_words(open_page: Open, size: str) -> None:
    page = open_page(size)
    _open_chooser(page)
    page.locator("#every-tile").click()
    for budget in RESULTS.budgets:
        page.select_option("#budget", str(budget))
        page.evaluate("Promise.all(Array.from(document.images, (image) => image.decode()))")
        images = page.evaluate(
            "Array.from(document.images, (image) => [image.naturalWidth, image.alt])"
        )
        # Each card: a tile for every method there, and two images in the large view.
        assert len(images) == len(RESULTS.labels) * (len(RESULTS.at(budget)) + 2)
        assert all(width == 16 and words for width, words in images)


@sizes
def test_the_slider_works_by_keyboard_and_by_mouse(open_page: Open, size: str) -> None:
    page = open_page(size)
    card = page.locator("#gallery .card").first
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
    card = page.locator("#gallery .card").first
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
    headings = page.locator("#gallery .card h3").all_inner_texts()
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
    assert "B = 10" in page.locator("#gallery-said").inner_text()
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
        headings = page.locator("#gallery .card h3").all_inner_texts()
        assert all(
            heading.startswith(RESULTS.labels[i][0])
            for heading, i in zip(headings, order, strict=True)
        )


def test_the_difference_view_is_dark_where_images_agree(open_page: Open) -> None:
    page = open_page()
    page.locator("#views label", has_text="difference").click()
    view = page.locator("#gallery .tile .view").first
    assert view.evaluate("(v) => getComputedStyle(v).filter") == "brightness(4)"
    assert view.evaluate("(v) => getComputedStyle(v, '::after').mixBlendMode") == "difference"


def test_curves_follow_the_metric_the_axis_and_the_legend(open_page: Open) -> None:
    page = open_page()
    assert page.locator("#chart .curve").count() == len(RESULTS.methods)
    assert page.locator("#chart .curve.pareto").count() == 7
    page.select_option("#metric", label="Fréchet ↓")
    label = page.locator("#chart svg").get_attribute("aria-label")
    assert "Fréchet against network evaluations" in label
    assert page.locator("#chart .fullrun").count() == 1
    assert page.locator("#chart .band").count() == 0
    page.locator("#axes label", has_text="relative time").click()
    assert "against time, of the full run's" in page.locator("#chart svg").get_attribute(
        "aria-label"
    )
    page.locator("#draw-pareto").click()
    assert page.locator("#chart .curve").count() == 7
    page.locator("#legend label", has_text="otcache").locator("input").focus()
    page.keyboard.press("Space")
    assert page.locator("#chart .curve").count() == 6
    page.locator("#draw-all").click()
    page.locator("#legend label", has_text="first-block-cache").locator("input").focus()
    said = page.locator("#chart-said").inner_text()
    assert said.startswith("first-block-cache: 5.6 NFE, 0.282 of the full run's time: ")
    assert page.locator("#chart .curve.near").count() == 1


def test_a_point_under_the_pointer_is_named(open_page: Open) -> None:
    page = open_page()
    page.locator("#chart .curve.ours .mark").first.hover(force=True)
    tip = page.locator("#tip").inner_text()
    assert tip.startswith("otcache\n5 NFE: ")
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_paired_comparisons_and_tags_follow_metric_and_budget(open_page: Open) -> None:
    page = open_page()
    assert page.locator("#pair-rows tr").count() == len(RESULTS.at(5)) - 1
    page.select_option("#budget", "10")
    assert page.locator("#pair-rows tr").count() == len(RESULTS.at(10)) - 1
    assert "RMSE at B = 10: otcache is better than" in page.locator("#pair-said").inner_text()
    row = page.locator("#tag-rows tr.ours td").all_inner_texts()
    assert len(row) == 6
    page.select_option("#metric", label="Fréchet ↓")
    assert page.locator("#pair-none").is_visible()
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
    assert page.locator("#paired_comparisons").is_hidden()


def test_paper_shows_all_sections_and_no_controls(open_page: Open) -> None:
    page = open_page()
    page.emulate_media(media="print")
    assert page.locator(".bar").is_hidden()
    assert page.locator("#images .controls").is_hidden()
    assert page.locator("#chart svg").is_visible()
    assert page.locator("#gallery .card").count() == 8


# --- videos -------------------------------------------------------------------------------------------

STILL = {"reduced_motion": "reduce"}
#: The pixels of a canvas, by way of a copy: reading the page's own would make the browser slow them.
PIXELS = """(canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  return Array.from(pen.getImageData(0, 0, canvas.width, canvas.height).data);
}"""
#: The reds of the first pixels of all canvases on the first card, over 20: frame numbers.
SHOWN = f"""() => Array.from(document.querySelector("#gallery .card").querySelectorAll("canvas"),
  (canvas) => ({PIXELS})(canvas)[0] / 20)"""
EVERYWHERE = SHOWN.replace('document.querySelector("#gallery .card")', "document")
#: Resolves after a dozen frames of the browser.
LATER = """() => new Promise((done) => {
  let left = 12;
  const next = () => (left-- ? requestAnimationFrame(next) : done());
  next();
})"""


def _frames(page: Any) -> list[float]:
    """Frame numbers of what the first card shows, once every image is decoded."""
    page.wait_for_function(f"() => ({SHOWN})().every((frame) => frame === Number(scrub.value))")
    shown: list[float] = page.evaluate(SHOWN)
    return shown


@sizes
def test_the_scrubber_moves_all_videos_to_the_same_frame(open_film: Open, size: str) -> None:
    page = open_film(size, **STILL)
    page.locator("#gallery .card").first.scroll_into_view_if_needed()
    assert set(_frames(page)) == {0}
    page.locator("#scrub").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    # A canvas for every method, and two in the large view.
    assert _frames(page) == [5] * (len(FILM.methods) + 2)
    assert page.locator("#frame-said").inner_text() == "6 of 9"
    assert page.locator("#scrub").get_attribute("aria-valuetext") == "frame 6 of 9"
    page.keyboard.press("End")
    assert set(_frames(page)) == {8}
    assert set(page.evaluate(EVERYWHERE)) == {8}
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]


def test_videos_play_in_step_and_pause(open_film: Open) -> None:
    page = open_film()
    assert page.locator("#play").inner_text() == "Pause"
    page.locator("#gallery .card").first.scroll_into_view_if_needed()
    page.wait_for_function("() => Number(scrub.value) > 1")
    page.wait_for_function(f"() => new Set(({SHOWN})()).size === 1 && ({SHOWN})()[0] > 0")
    page.locator("#play").focus()
    page.keyboard.press("Space")
    assert page.locator("#play").inner_text() == "Play"
    paused = page.locator("#scrub").input_value()
    page.evaluate(LATER)
    assert page.locator("#scrub").input_value() == paused
    assert set(_frames(page)) == {int(paused)}
    assert set(page.evaluate(EVERYWHERE)) == {int(paused)}
    page.select_option("#speed", "2")
    assert page.locator("#play").inner_text() == "Play"
    page.locator("#play").click()
    page.wait_for_function(f"() => Number(scrub.value) !== {paused}")


def test_videos_wait_where_motion_is_not_wanted(open_film: Open) -> None:
    page = open_film(**STILL)
    assert page.locator("#play").inner_text() == "Play"
    page.locator("#play").click()
    page.wait_for_function("() => Number(scrub.value) > 0")
    page.locator("#scrub").press("Home")
    assert page.locator("#play").inner_text() == "Play"
    assert set(_frames(page)) == {0}


def test_the_error_of_the_frame_that_is_shown_is_told(open_film: Open) -> None:
    page = open_film(**STILL)
    videos, place = _videos(), FILM.methods.index("uniform")
    full, made = (np.rint(videos[key] * 255) for key in (("full run", 30), ("uniform", 5)))
    card = page.locator("#gallery .card").first
    sample = int(card.get_attribute("data-sample"))
    for frame in (0, 4):
        page.locator("#scrub").fill(str(frame))
        error = np.sqrt(np.mean((made[sample, frame] - full[sample, frame]) ** 2)) / 255
        said = card.locator(f'.now[data-m="{place}"]').inner_text()
        assert said.startswith("frame .")
        assert float(said.removeprefix("frame ")) == pytest.approx(error, abs=1e-4)
    assert card.locator(".frames .line").count() == len(FILM.methods)
    assert card.locator(".frames .near").count() == 1
    assert card.locator(".playhead").get_attribute("d") == "M50 0V40"


def test_a_video_comes_beside_the_full_run_at_the_same_frame(open_film: Open) -> None:
    page = open_film(**STILL)
    page.locator("#scrub").fill("3")
    card = page.locator("#gallery .card").first
    card.locator("button.tile", has_text="uniform").click()
    assert "uniform at budget 5" in str(card.locator(".after canvas").get_attribute("aria-label"))
    assert card.locator(".frames b").inner_text() == "uniform"
    assert set(_frames(page)) == {3}


def test_the_difference_of_videos_follows_the_clock(open_film: Open) -> None:
    page = open_film(**STILL)
    page.locator("#views label", has_text="difference").click()
    page.locator("#scrub").fill("6")
    videos = {key: np.rint(stack * 255) for key, stack in _videos().items()}
    card = page.locator("#gallery .card").first
    sample = int(card.get_attribute("data-sample"))
    wanted = np.abs(videos["uniform", 5][sample, 6] - videos["full run", 30][sample, 6])
    canvas = card.locator("button.tile", has_text="uniform").locator("canvas")
    drawn = f"(canvas) => ({PIXELS})(canvas)[3] === 255"
    page.wait_for_function(drawn, arg=canvas.element_handle())
    seen = np.array(canvas.evaluate(PIXELS)).reshape(16, 16, 4)[..., :3]
    np.testing.assert_array_equal(seen, wanted)
    assert canvas.locator("..").evaluate("(v) => getComputedStyle(v).filter") == "brightness(4)"


def test_every_control_of_the_player_has_a_name_and_text_stands_out(open_film: Open) -> None:
    for scheme in ("light", "dark"):
        page = open_film(color_scheme=scheme, **STILL)
        assert page.evaluate(CONTRAST) == []
    unnamed = page.locator(".player :is(button, select, input), #gallery canvas").evaluate_all(
        """(all) => all.filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim()))
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []


def test_a_page_of_images_has_no_player(open_page: Open) -> None:
    page = open_page()
    assert page.locator(".player, #gallery canvas, .now, .frames").count() == 0
    assert page.locator("#gallery .card img").count() > 0


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
