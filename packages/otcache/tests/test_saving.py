"""Images become PNG, videos what the installed writers know."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from otcache.media import check_name, save
from otcache_core import Info, OtcacheError, Registry, hookimpl
from otcache_core.contracts import VideoWriter, check_video

IMAGE, VIDEO = np.full((6, 8, 3), 0.5), np.full((4, 6, 8, 3), 0.5)


class Reels(VideoWriter):
    """Writes what it was given."""

    suffixes = (".reel", ".roll")

    def write(self, path: str | Path, video: np.ndarray, frames_per_second: float) -> None:
        check_video(self, path, video, frames_per_second)
        Path(path).write_text(f"{video.shape} {frames_per_second}")


class Writers:
    @hookimpl
    def otcache_provide_writers(self) -> list[Info]:
        return [Info("reels", "fake_writers:Reels")]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = types.ModuleType("fake_writers")
    module.Reels = Reels  # type: ignore[attr-defined]  # made here
    monkeypatch.setitem(sys.modules, "fake_writers", module)
    found = Registry(entry_points=False)
    found.register(Writers(), "fakes")
    return found


def test_an_image_is_png(tmp_path: Path, registry: Registry) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3)) / 255
    path = save(tmp_path / "made.png", image, 0.0, registry)
    read = matplotlib.image.imread(path)[..., :3]
    np.testing.assert_allclose(read, image, atol=1e-6)


@pytest.mark.parametrize("name", ["made.reel", "made.ROLL"])
def test_the_ending_decides_the_writer(tmp_path: Path, registry: Registry, name: str) -> None:
    path = save(tmp_path / name, VIDEO, 12.0, registry)
    assert path.read_text() == "(4, 6, 8, 3) 12.0"


def test_values_a_little_out_of_range_are_cut(tmp_path: Path, registry: Registry) -> None:
    assert save(tmp_path / "made.reel", VIDEO + 0.5000001, 12.0, registry).exists()


@pytest.mark.parametrize(("made", "name"), [(IMAGE, "otcache.png"), (VIDEO, "otcache.reel")])
def test_a_name_is_found_where_none_is_given(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    registry: Registry,
    made: np.ndarray,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert save(None, made, 12.0, registry) == Path(name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("made", "name", "message"),
    [
        (IMAGE, "made.reel", r"name of an image must be one that ends on \.png, got"),
        (IMAGE, "made", r"name of an image must be one that ends on \.png, got"),
        (VIDEO, "made.png", r"name of a video must be one that ends on \.reel or \.roll, got"),
        (np.zeros((8, 8)), "made.png", r"must be an image .* or a video .*, got 'shape \(8, 8\)"),
        (np.zeros((4, 8, 8)), "made.png", "must be an image"),
    ],
)
def test_another_ending_is_refused(
    tmp_path: Path, registry: Registry, made: np.ndarray, name: str, message: str
) -> None:
    with pytest.raises(OtcacheError, match=message):
        save(tmp_path / name, made, 12.0, registry)
    assert not list(tmp_path.iterdir())


def test_a_name_nobody_writes_is_refused_before_anything_is_made(registry: Registry) -> None:
    for name in ("a.png", "a.PNG", "a.reel"):
        check_name(Path(name), registry)
    with pytest.raises(OtcacheError, match=r"ends on \.png or \.reel or \.roll, got 'a\.avi'\.$"):
        check_name(Path("a.avi"), registry)


def test_without_writers_videos_need_the_extra(tmp_path: Path) -> None:
    bare = Registry(entry_points=False)
    with pytest.raises(OtcacheError, match=r"ends on \.png.*pip install 'otcache\[video\]'"):
        check_name(Path("a.mp4"), bare)
    with pytest.raises(OtcacheError, match=r"no writer of videos.*pip install 'otcache\[video\]'"):
        save(tmp_path / "a.mp4", VIDEO, 12.0, bare)
