"""The report's files from invented results; no browser is needed."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache.report import rebuild, write_report
from otcache.report.gallery import (
    LONGEST,
    frame_errors,
    gallery,
    grid_png,
    rows_of,
    spread,
    stills,
    strip,
)
from otcache.report.images import Album, data_uri, encode, shrink
from otcache.report.page import render
from otcache.report.results import Results
from otcache_core import FileError, OtcacheError

sys.path.insert(0, str(Path(__file__).parent))
from report_fakes import (  # type: ignore[import-not-found]  # the folder is not a package
    compared_results,
    fake_images,
    fake_results,
    fake_videos,
)

RESULTS = fake_results(budgets=(5, 10), seeds=1)
IMAGES = fake_images(RESULTS, size=32)
ALBUM = Album.of(RESULTS, IMAGES)
COMPARED = compared_results(budgets=(5, 10), prompts=8)
FILM = replace(RESULTS, frames_per_second=8.0)
VIDEOS = fake_videos(FILM, size=32, frames=9)


class Page(HTMLParser):
    """Collects tags, their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def data(self, identifier: str) -> Any:
        places = [script.get("id") for script in self.every("script")]
        return json.loads(self.scripts[places.index(identifier)])


@pytest.fixture(scope="module")
def text() -> str:
    return render(RESULTS, ALBUM)


@pytest.fixture(scope="module")
def compared() -> str:
    return render(COMPARED)


def test_the_page_loads_nothing(text: str) -> None:
    page = Page(text)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "url(http" not in text
    assert [link["href"] for link in page.every("link")] == ["data:,"]
    wanted = next(m for m in page.every("meta") if m.get("http-equiv"))
    assert str(wanted["content"]).startswith("default-src 'none'; img-src data:;")


def test_no_script_runs_but_the_one_named_by_hash(text: str) -> None:
    page = Page(text)
    policy = next(str(m["content"]) for m in page.every("meta") if m.get("http-equiv"))
    kinds = [script.get("type") for script in page.every("script")]
    assert kinds == ["application/json", "application/json", None]
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_prompts_and_names_are_escaped() -> None:
    evil = "</script><script>alert(1)</script><!--\u2028\"' $x_$^"
    cells = tuple(
        replace(c, method=evil if c.method == "uniform" else c.method, setting=evil)
        for c in RESULTS.cells
    )
    labels = tuple((f"{evil} {i}", seed, evil) for i, (_, seed, _) in enumerate(RESULTS.labels))
    gaps = tuple(replace(gap, reason=evil) for gap in COMPARED.missing)
    results = replace(
        RESULTS, title=evil, labels=labels, cells=cells, provenance={evil: evil}, command=evil,
        sources={evil: evil}, stage_nfe={evil: 1}, missing=gaps,
    )  # fmt: skip
    images = {(evil if m == "uniform" else m, b): p for (m, b), p in IMAGES.items()}
    text = render(results, Album.of(results, images))
    page = Page(text)
    assert "<script>alert" not in text
    assert "<!--" not in text
    assert len(page.every("script")) == 3
    assert page.data("figures")["samples"][0]["prompt"] == f"{evil} 0"


def test_every_id_is_unique_and_every_target_exists(text: str, compared: str) -> None:
    for page in (Page(text), Page(compared)):
        ids = [str(attrs["id"]) for _, attrs in page.tags if attrs.get("id")]
        assert len(ids) == len(set(ids))
        links = {str(a["href"])[1:] for a in page.every("a")}
        links |= {str(use["href"])[1:] for use in page.every("use")}
        assert links <= set(ids)


def test_each_image_stands_in_the_page_once(text: str) -> None:
    data = Page(text).data("images-data")
    cards, images = data["cards"], data["images"]
    assert len(cards) == len(RESULTS.labels)
    assert all(len(card["tiles"]) == 2 * 5 for card in cards)
    assert all(source.startswith("data:image/") for source in images)
    used = {card["full"] for card in cards} | {p for card in cards for p in card["tiles"].values()}
    assert used == set(range(len(RESULTS.labels) * (1 + 2 * 5)))
    assert text.count("data:image/") == len(images) == len(used)
    same = dict.fromkeys(IMAGES, IMAGES["full run", 30])
    assert len(gallery(RESULTS, Album.of(RESULTS, same))["images"]) == len(RESULTS.labels)


def test_cards_come_worst_first() -> None:
    cell = RESULTS.cell("otcache", 5)
    assert cell is not None
    errors = [cell.metrics["rmse"][card["sample"]] for card in gallery(RESULTS, ALBUM)["cards"]]
    assert errors == sorted(errors, reverse=True)


def test_large_images_are_shown_smaller_where_room_is_short() -> None:
    assert gallery(RESULTS, ALBUM)["size"] == (32, 32)
    tight = gallery(RESULTS, ALBUM, room=60_000)
    assert tight["size"] == (16, 16)
    assert tight["smaller"] == 2


def test_the_page_has_the_figures_of_every_metric(compared: str) -> None:
    data = Page(compared).data("figures")
    assert [metric["name"] for metric in data["metrics"]] == [*COMPARED.metrics, "frechet"]
    cell, packed = COMPARED.cells[3], data["cells"][3]
    assert packed["values"]["psnr"] == pytest.approx(cell.metrics["psnr"], rel=1e-4)
    mean, low, high = packed["figures"]["psnr"]
    assert mean == pytest.approx(np.mean(cell.metrics["psnr"]), rel=1e-4)
    assert low < mean < high
    assert packed["figures"]["frechet"] == [pytest.approx(cell.totals["frechet"], rel=1e-4)]
    assert data["metrics"][-1]["full"] == 14.2
    assert packed["nfe"] == cell.nfe
    baselines = {(budget, m) for budget, m, *_ in data["pairs"]["psnr"]}
    assert len(baselines) == len(data["pairs"]["psnr"]) == len(COMPARED.cells) - 2


def test_identical_images_reach_the_page_as_no_number_and_are_counted() -> None:
    cell = RESULTS.cells[0]
    metrics = {
        **cell.metrics,
        "psnr": (float("inf"), *cell.metrics["psnr"][1:]),
        "rmse": (0.0, *cell.metrics["rmse"][1:]),
    }
    page = Page(
        render(replace(RESULTS, cells=(replace(cell, metrics=metrics), *RESULTS.cells[1:])))
    )
    assert page.data("figures")["cells"][0]["values"]["psnr"][0] is None
    assert "1 identical images have no finite PSNR" in page.text
    assert f"1/{len(RESULTS.labels)}" in page.text


def test_the_page_states_sources_costs_gaps_and_command(compared: str, text: str) -> None:
    words = " ".join(Page(compared).text.split())
    assert "otcache compare demo --budgets 5,6,8,10,15 --out compared" in words
    assert "invented project 3, rule of meancache-rule" in words
    assert "lora-cache" in words
    assert "needs <cuda> & 24 GB: none here" in words
    assert "pyramid-attention, B = 5" in words
    demo = " ".join(Page(text).text.split())
    assert "anchor search" in demo
    assert f"{sum(RESULTS.stage_nfe.values()):,}" in demo
    assert "versions.torch" in demo


def test_a_tag_that_suffers_is_a_warning(compared: str) -> None:
    whole = Page(render(compared_results(budgets=(5,), methods=3))).text
    assert "on glyph, otcache's RMSE is" in " ".join(whole.split())
    flat = replace(RESULTS, labels=tuple((p, s, "") for p, s, _ in RESULTS.labels))
    page = Page(render(flat))
    assert "suffer more than the rest" not in page.text
    assert not any(attributes.get("id") == "tags" for _, attributes in page.tags)


def test_schedules_are_drawn_and_told(compared: str) -> None:
    page = Page(compared)
    words = [s["aria-label"] for s in page.every("svg") if s.get("aria-label")]
    cell = COMPARED.cell("otcache", 5)
    assert cell is not None
    assert cell.schedule is not None
    assert f"computes steps {', '.join(map(str, cell.schedule))}" in words
    assert "fewer-steps-own, fewer-steps-euler" in page.text


def test_without_a_baseline_there_is_no_headline() -> None:
    alone = tuple(c for c in RESULTS.cells if c.method == "otcache")
    assert "no budget at which both" in render(replace(RESULTS, cells=alone))


def test_otcache_may_be_missing() -> None:
    results = replace(RESULTS, cells=tuple(c for c in RESULTS.cells if c.method != "otcache"))
    images = {key: p for key, p in IMAGES.items() if key[0] != "otcache"}
    assert 'id="gallery"' in render(results, Album.of(results, images))


def test_without_images_there_is_no_gallery(compared: str) -> None:
    assert 'id="images"' not in compared
    assert 'id="images-data"' not in compared


NAMES = "report.html table.md table.csv error.png schedules.png grid.png images.safetensors"


def test_all_files_are_written(tmp_path: Path) -> None:
    written = write_report(RESULTS, IMAGES, tmp_path / "new" / "folder")
    assert [path.name for path in written] == [*NAMES.split(), "results.json"]
    assert all(path.stat().st_size > 500 for path in written)
    assert Results.load(written[-1]) == replace(
        RESULTS, provenance={**RESULTS.provenance, "grid": list(RESULTS.provenance["grid"])}
    )
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in written if p.suffix == ".png")
    with (tmp_path / "new" / "folder" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(RESULTS.cells)


def test_a_report_is_rebuilt_byte_by_byte(tmp_path: Path) -> None:
    written = write_report(RESULTS, IMAGES, tmp_path)
    before = {path: path.read_bytes() for path in written}
    for path in written[:6]:
        path.unlink()
    again = rebuild(tmp_path)
    assert again == written[:6]
    assert {path: path.read_bytes() for path in written} == before


def test_a_report_without_images_forgets_those_of_another(tmp_path: Path) -> None:
    write_report(RESULTS, IMAGES, tmp_path)
    write_report(RESULTS, None, tmp_path)
    assert not (tmp_path / "grid.png").exists()
    (page, *_) = rebuild(tmp_path)
    assert 'id="gallery"' not in page.read_text()


def test_rebuilding_names_the_file_that_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"results\.json: cannot be read"):
        rebuild(tmp_path)
    write_report(RESULTS, IMAGES, tmp_path)
    images = tmp_path / "images.safetensors"
    whole = images.read_bytes()
    images.write_bytes(whole[:-100])
    with pytest.raises(FileError, match=r"images\.safetensors: truncated"):
        rebuild(tmp_path)
    images.write_bytes(whole)
    fewer = {m: v[:-1] for m, v in RESULTS.cells[0].metrics.items()}
    cell = replace(RESULTS.cells[0], metrics=fewer)
    replace(RESULTS, labels=RESULTS.labels[:-1], cells=(cell,)).save(tmp_path / "results.json")
    with pytest.raises(FileError, match=r"images\.safetensors: images\[.*of shape"):
        rebuild(tmp_path)


def test_another_file_in_the_place_of_images_is_named(tmp_path: Path) -> None:
    from otcache_core.storage.array_files import save_arrays

    write_report(RESULTS, None, tmp_path)
    path = tmp_path / "images.safetensors"
    save_arrays(path, {"30:full": np.zeros((1, 2, 2, 3), np.uint8)})
    with pytest.raises(FileError, match="must be images of a report"):
        rebuild(tmp_path)
    save_arrays(path, {"full": np.zeros(3)}, {"format": "otcache-images", "version": "2"})
    with pytest.raises(FileError, match="'full' is not a stack of 8-bit images"):
        rebuild(tmp_path)


def test_the_same_results_give_the_same_page(text: str) -> None:
    assert render(RESULTS, ALBUM) == text
    assert grid_png(RESULTS, ALBUM) == grid_png(RESULTS, ALBUM)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileError, match="taken: cannot be made a folder"):
        write_report(RESULTS, None, tmp_path / "taken")


def test_images_that_do_not_fit_are_named() -> None:
    with pytest.raises(OtcacheError, match=r"\('full run', 30\)"):
        Album.of(RESULTS, {("otcache", 5): IMAGES["otcache", 5]})
    with pytest.raises(OtcacheError, match=r"\('otcache', 5\).*of shape"):
        Album.of(RESULTS, {**IMAGES, ("otcache", 5): IMAGES["otcache", 5][1:]})
    with pytest.raises(OtcacheError, match="uint8"):
        Album.of(RESULTS, {**IMAGES, ("otcache", 5): (IMAGES["otcache", 5] * 255).astype("uint8")})
    with pytest.raises(OtcacheError, match=r"within \[0, 1\]"):
        Album.of(RESULTS, {**IMAGES, ("otcache", 5): IMAGES["otcache", 5] * 255})


def test_large_images_shrink_by_block_means() -> None:
    image = np.zeros((500, 300, 3))
    image[::2] = 1.0
    small = shrink(image, 256)
    assert small.shape == (250, 150, 3)
    assert np.all(small == 0.5)
    assert shrink(image, 500).shape == image.shape


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_encoded_images_are_lossless(kind: str, tmp_path: Path) -> None:
    from matplotlib.image import imread

    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    path = tmp_path / f"image.{kind}"
    path.write_bytes(encode(image, kind))
    read = imread(path)
    eight_bit = np.rint(read * 255).astype(np.uint8) if read.dtype != np.uint8 else read
    assert np.array_equal(eight_bit[..., :3], image)
    assert data_uri(image).startswith("data:image/")


# --- videos -------------------------------------------------------------------------------------------


def _decoded(source: str) -> np.ndarray:
    import io

    from matplotlib.image import imread

    kind, _, text = source.removeprefix("data:image/").partition(";base64,")
    read = imread(io.BytesIO(base64.b64decode(text)), format=kind)
    return (read if read.dtype == np.uint8 else np.rint(read * 255).astype(np.uint8))[..., :3]


def _cut(image: np.ndarray, data: dict[str, Any]) -> np.ndarray:
    """Frames of a strip, cut out one by one as the page's script does."""
    height, width = data["size"]
    found = []
    for n in range(len(data["frames"])):
        top, left = (n % data["rows"]) * height, (n // data["rows"]) * width
        found.append(image[top : top + height, left : left + width])
    return np.stack(found)


def test_every_video_stands_in_the_page_once_and_loses_nothing() -> None:
    album = Album.of(FILM, VIDEOS)
    data = Page(render(FILM, album)).data("images-data")
    assert (data["frames"], data["filmed"], data["rate"]) == (list(range(9)), 9, 8.0)
    assert len(data["images"]) == len(FILM.labels) * (1 + 2 * 5)
    for card in data["cards"]:
        shown = _cut(_decoded(data["images"][card["full"]]), data)
        np.testing.assert_array_equal(shown, album.full[card["sample"]])
        for key, place in card["tiles"].items():
            method, budget = key.split(":")
            wanted = album.stacks[FILM.methods[int(method)], int(budget)][card["sample"]]
            np.testing.assert_array_equal(_cut(_decoded(data["images"][place]), data), wanted)
    same = dict.fromkeys(VIDEOS, VIDEOS["full run", 30])
    assert len(gallery(FILM, Album.of(FILM, same))["images"]) == len(FILM.labels)


def test_the_errors_of_frames_stand_beside_them() -> None:
    album = Album.of(FILM, VIDEOS)
    for card in gallery(FILM, album)["cards"]:
        full = VIDEOS["full run", 30][card["sample"]]
        for key, errors in card["errors"].items():
            method, budget = key.split(":")
            made = VIDEOS[FILM.methods[int(method)], int(budget)][card["sample"]]
            wanted = np.sqrt(((made - full) ** 2).mean(axis=(1, 2, 3)))
            np.testing.assert_allclose(errors, wanted, atol=1 / 255)
    assert frame_errors(*2 * (album.full[0],)) == [0.0] * 9


def test_where_room_is_short_videos_are_made_smaller_then_thinned_then_fewer() -> None:
    film = replace(FILM, cells=FILM.cells[-2:])
    album = Album.of(film, fake_videos(film, size=64, frames=40))
    length = sum(map(len, gallery(film, album)["images"]))
    smaller = gallery(
        film, album, room=length
    )  # room for videos like the worst, which is the noisiest
    assert (smaller["size"], smaller["smaller"], len(smaller["frames"])) == ((32, 32), 2, 40)
    thinner = gallery(film, album, room=length // 5)
    assert thinner["size"] == (32, 32)
    assert 12 <= len(thinner["frames"]) < 40
    stride = thinner["frames"][1]
    assert thinner["frames"] == list(range(0, 40, stride))
    assert thinner["rate"] == 8.0 / stride
    card = thinner["cards"][0]
    assert {len(errors) for errors in card["errors"].values()} == {len(thinner["frames"])}
    fewer = gallery(film, album, room=length // 40)
    assert 1 <= len(fewer["cards"]) < len(film.labels)


@given(st.integers(1, 300), st.integers(1, 400))
def test_a_strip_fits_into_an_image(frames: int, height: int) -> None:
    rows = rows_of(frames, height)
    assert 1 <= rows <= frames
    assert rows * height <= LONGEST


@given(st.integers(1, 40), st.integers(1, 5), st.integers(300, 3000))
def test_a_strip_holds_every_frame(frames: int, width: int, height: int) -> None:
    video = np.random.default_rng(frames).integers(0, 256, (frames, 1, width, 3), dtype=np.uint8)
    video = np.repeat(video, height, axis=1)
    data = {"size": (height, width), "frames": range(frames), "rows": rows_of(frames, height)}
    np.testing.assert_array_equal(_cut(strip(video), data), video)


def test_a_report_of_videos_is_kept_and_rebuilt_byte_by_byte(tmp_path: Path) -> None:
    written = write_report(FILM, VIDEOS, tmp_path)
    before = {path: path.read_bytes() for path in written}
    rebuild(tmp_path)
    assert {path: path.read_bytes() for path in written} == before
    assert Results.load(tmp_path / "results.json").frames_per_second == 8.0


def test_a_page_of_videos_speaks_of_videos() -> None:
    words = " ".join(Page(render(FILM, Album.of(FILM, VIDEOS))).text.split())
    assert "how far the videos are from the full run's" in words
    assert "Videos, worst cases first" in words
    still = " ".join(Page(render(RESULTS, ALBUM)).text.split())
    assert "Images, worst cases first" in still
    assert "frames" not in Page(render(RESULTS, ALBUM)).data("images-data")


def test_videos_that_do_not_fit_are_named() -> None:
    with pytest.raises(OtcacheError, match="frames_per_second must be above 0"):
        Album.of(RESULTS, VIDEOS)
    shorter = {**VIDEOS, ("otcache", 5): VIDEOS["otcache", 5][:, :-1]}
    with pytest.raises(OtcacheError, match=r"\('otcache', 5\).*of shape"):
        Album.of(FILM, shorter)
    with pytest.raises(OtcacheError, match=r"\('otcache', 5\).*of shape"):
        Album.of(FILM, {**VIDEOS, ("otcache", 5): IMAGES["otcache", 5]})


def test_the_grid_shows_the_middle_frame() -> None:
    album = Album.of(FILM, VIDEOS)
    np.testing.assert_array_equal(stills(album.full), album.full[:, 4])
    assert stills(ALBUM.full) is ALBUM.full
    assert grid_png(FILM, album)


def test_the_grid_spreads_over_distinct_prompts() -> None:
    results = fake_results()
    chosen = spread(results, 5, 4)
    assert len({results.prompts[i] for i in chosen}) == 4


def test_the_grid_of_many_methods_shows_the_best() -> None:
    from matplotlib.image import imread

    images = {
        key: np.zeros((8, 8, 8, 3))
        for key in [("full run", 30), *((c.method, c.budget) for c in COMPARED.cells)]
    }
    import io

    wide = imread(io.BytesIO(grid_png(COMPARED, Album.of(COMPARED, images)))).shape[1]
    assert wide < 2100


def test_one_sample_one_budget_and_an_error_of_zero() -> None:
    cell = replace(RESULTS.cells[-1], metrics={"rmse": (0.0,), "psnr": (float("inf"),)})
    results = replace(
        RESULTS, labels=RESULTS.labels[:1], cells=(cell,), stage_nfe={}, provenance={}
    )
    images = {
        ("full run", 30): np.zeros((1, 16, 16, 3)),
        ("otcache", 10): np.zeros((1, 16, 16, 3)),
    }
    album = Album.of(results, images)
    assert "∞" in render(results, album)
    assert grid_png(results, album)


def test_plots_are_imported_on_use_and_leave_no_global_state() -> None:
    code = (
        "import sys, otcache.report, otcache.report.page;"
        "import otcache.report.results, otcache.report.statistics;"
        "assert 'matplotlib' not in sys.modules; assert 'torch' not in sys.modules;"
        "import matplotlib; names = ['font.size', 'svg.hashsalt', 'text.color'];"
        "before = [matplotlib.rcParams[n] for n in names];"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import report_fakes as f;"
        "otcache.report.page.render(f.fake_results((5,), 1));"
        "assert before == [matplotlib.rcParams[n] for n in names];"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
