"""What a demo writes and says, on figures made up so that the answer is known."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from otcache.comparison.bench import Bench
from otcache.comparison.folder import Run
from otcache.comparison.job import Job
from otcache.comparison.metrics import OF_VIDEOS
from otcache.comparison.timing import speed
from otcache.demo.preset import DemoOutcome, DemoSettings
from otcache.demo.showing import GAP, only, row, tables, verdict, write_videos
from otcache.report.plots import series_of
from otcache.report.results import Cell, Results, scale_of
from otcache_core import FileError, Info, Registry, hookimpl
from otcache_core.contracts import Measured, SampleRequest, VideoWriter, check_video

N, BUDGETS, PROMPTS = 30, (5, 6, 10), 6
OTHERS = ("uniform", "fewer steps", "LeMiCa rule", "MeanCache rule", "Adams-Bashforth", "UniPC")


def _cell(method: str, budget: int, **means: float) -> Cell:
    """Values a hundredth around each mean, alike for all methods."""
    spread = np.linspace(0.99, 1.01, PROMPTS)
    metrics = {name.replace("_", "-"): tuple(mean * spread) for name, mean in means.items()}
    return Cell(method, budget, budget, N / budget, N / budget, None, metrics, speedup_spread=0.1)


def _results() -> Results:
    """Check 0.4, 0.5 and 0.625 of the best baseline's RMSE: 0.5 in geometric mean."""
    cells = []
    for ratio, budget, best in zip((0.4, 0.5, 0.625), BUDGETS, ("UniPC", *OTHERS[:2]), strict=True):
        for baseline in OTHERS:
            off = 1.0 if baseline == best else 2.0
            cells.append(
                _cell(baseline, budget, rmse=0.1 * off, flicker=0.1 * off, temporal_lpips=1)
            )
        tlp = 1.5 if budget == 6 else 1.0
        cells.append(_cell("otcache", budget, rmse=0.1 * ratio, flicker=0.05, temporal_lpips=tlp))
    labels = tuple((f"a red circle, No {i}", 1000, "shape") for i in range(PROMPTS))
    return Results("made up", N, labels, tuple(cells), frames_per_second=8.0)


def test_the_geometric_mean_over_budgets() -> None:
    assert verdict(_results()) == (
        "otcache's RMSE is 0.50 of the best other method's: 0.40 at B = 5 (UniPC), "
        "0.50 at B = 6 (uniform), 0.62 at B = 10 (fewer steps)."
    )


def test_metrics_over_time_are_reported_by_budget() -> None:
    text = verdict(_results(), ("flicker", "temporal-lpips"))
    assert "flicker is better at every budget" in text
    assert text.endswith("tLP is worse at B = 6.")


def test_no_difference_is_within_the_interval() -> None:
    text = verdict(only(_results(), ("rmse",)), ())
    assert "Over time" not in text
    even = [_cell(name, 5, rmse=0.1, flicker=0.1) for name in ("uniform", "otcache")]
    labels = tuple((f"a{i}", 0, "") for i in range(PROMPTS))
    said = verdict(Results("even", N, labels, tuple(even), frames_per_second=8.0), ("flicker",))
    assert "flicker is better or within the 95 % interval at every budget" in said


def test_seven_methods_with_otcache_last_have_a_colour_each() -> None:
    found = series_of(_results(), "rmse")
    assert found["otcache"] == 0
    assert sorted(found.values()) == list(range(7))


class Reels(VideoWriter):
    """Notes the shape of what it writes."""

    suffixes = (".reel",)

    def write(self, path: str | Path, video: np.ndarray, frames_per_second: float) -> None:
        check_video(self, path, video, frames_per_second)
        Path(path).write_text(f"{video.shape} {frames_per_second} {video.mean():.3f}")


class Writers:
    @hookimpl
    def otcache_provide_writers(self) -> list[Info]:
        return [Info("reels", "fake_reels:Reels")]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = types.ModuleType("fake_reels")
    module.Reels = Reels  # type: ignore[attr-defined]  # made here
    monkeypatch.setitem(sys.modules, "fake_reels", module)
    found = Registry(entry_points=False)
    found.register(Writers(), "fakes")
    return found


@pytest.fixture
def outcome() -> DemoOutcome:
    results = _results()
    shape = (PROMPTS, 3, 4, 5, 3)
    images = {(c.method, c.budget): np.full(shape, 0.5) for c in results.cells}
    images["full run", N] = np.zeros(shape) + np.arange(PROMPTS).reshape(-1, 1, 1, 1, 1) / 10
    return DemoOutcome(results, images, ("flicker", "temporal-lpips"))


def test_videos_are_named_from_left_to_right(
    tmp_path: Path, outcome: DemoOutcome, registry: Registry
) -> None:
    written = write_videos(outcome, tmp_path / "videos", registry)
    names = [path.name for path in written]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert names[:3] == [
        "01-a-red-circle-no-0-full.reel",
        "01-a-red-circle-no-0-B5-full-otcache-unipc.reel",
        "01-a-red-circle-no-0-B6-full-otcache-uniform.reel",
    ]
    assert len(names) == 4 * 3
    assert (tmp_path / "videos" / "04-a-red-circle-no-3-full.reel").read_text() == (
        "(3, 4, 5, 3) 8.0 0.300"
    )
    assert written[1].read_text().startswith(f"(3, 4, {3 * 5 + 2 * GAP}, 3) 8.0")


def test_videos_of_an_earlier_demo_go_and_nothing_else(
    tmp_path: Path, outcome: DemoOutcome, registry: Registry
) -> None:
    for name in ("01-old-full.reel", "02-old-B5-full-otcache-x.reel", "mine.reel", "01-old.txt"):
        (tmp_path / name).write_text("old")
    names = {path.name for path in write_videos(outcome, tmp_path, registry)}
    assert {path.name for path in tmp_path.iterdir()} == names | {"mine.reel", "01-old.txt"}


def test_a_folder_that_cannot_be_made(
    tmp_path: Path, outcome: DemoOutcome, registry: Registry
) -> None:
    (tmp_path / "videos").write_text("a file")
    with pytest.raises(FileError, match="videos: cannot be made a folder of videos"):
        write_videos(outcome, tmp_path / "videos", registry)


def test_a_row_shows_videos_in_order_with_white_between() -> None:
    videos = tuple(np.full((2, 3, 4, 3), value) for value in (0.1, 0.2, 0.3))
    made = row(videos)
    assert made.shape == (2, 3, 3 * 4 + 2 * GAP, 3)
    columns = made[0, 0, :, 0]
    np.testing.assert_allclose(
        columns, np.repeat([0.1, 1.0, 0.2, 1.0, 0.3], [4, GAP, 4, GAP, 4]), atol=0
    )


def test_no_figure_is_cut_off_on_the_terminal(outcome: DemoOutcome) -> None:
    temporal = OF_VIDEOS[4:]
    cells = tuple(
        replace(c, metrics=dict.fromkeys(OF_VIDEOS, tuple(np.linspace(0.123, 0.456, PROMPTS))))
        for c in outcome.results.cells
    )
    console = Console(width=104, record=True, file=io.StringIO())
    results = replace(outcome.results, cells=cells)
    console.print(tables(replace(outcome, results=results, temporal=temporal)))
    text = console.export_text()
    assert "…" not in text
    assert "of the best other method's" in " ".join(text.split())
    assert all(scale_of(results, metric).head in text for metric in OF_VIDEOS)


class BusyProbe:
    """Nine times as slow until an hour's work is done, by its own clock; a step takes a second.

    A full run within that hour, over five steps after it: 9 * 30.5 / 5.5 = 49.9, where 6 is ideal.
    """

    def __init__(self) -> None:
        self.done, self.computed = 3600.0 - 2 * N, N

    def measure(self, target: Any, request: SampleRequest, *, flops: bool = False) -> Measured:
        assert len(request.prompts) == 1
        slow = 9.0 if self.done < 3600 else 1.0
        self.done += self.computed
        return Measured(np.zeros(0), None, slow * (self.computed + 0.5))

    @contextmanager
    def computing(self, budget: int) -> Iterator[None]:
        self.computed = budget
        yield
        self.computed = N


def test_no_speedup_is_above_the_ideal_where_other_work_ends_between_runs() -> None:
    probe, samples = BusyProbe(), (("a", 1000, ""),)
    job = Job(
        title="", pipeline="x", num_steps=N, budgets=(5, 15), samples=samples, calibration=("b",)
    )
    bench = Bench(job, None, {}, cast(Any, probe), lambda event, **facts: None)
    for budget in job.budgets:
        run = Run("even", N, tuple(range(budget)), budget, None, None)
        runs = {name: (run, lambda b=budget: probe.computing(b)) for name in ("even", "other")}
        for pairs in bench.pairs(cast(Any, runs), samples).values():
            found = speed(pairs, N / budget).speedup
            assert found == (pytest.approx((N + 0.5) / (budget + 0.5)), pytest.approx(0))


def test_settings_of_videos_and_images() -> None:
    assert DemoSettings.chosen(video=False, quick=False) == DemoSettings()
    quick = DemoSettings.chosen(video=False, quick=True)
    assert DemoSettings().pipeline == quick.pipeline == "demo"
    video = DemoSettings.chosen(video=True, quick=False)
    shares = [round(budget / video.num_steps, 2) for budget in video.budgets]
    assert shares == [0.17, 0.2, 0.33, 0.5]
    short = DemoSettings.chosen(video=True, quick=True)
    assert short.pipeline == video.pipeline == "demo:video"
    kept = ["calibration", "calibration-quick", "calibration-video", "calibration-video-quick"]
    assert [one.kept for one in (DemoSettings(), quick, video, short)] == kept
