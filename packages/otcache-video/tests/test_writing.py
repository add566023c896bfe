"""What was written, decoded: by FFmpeg and by hand for MP4, by Pillow for WebP."""

from __future__ import annotations

import sys
from fractions import Fraction
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence, features

from otcache_core import OtcacheError
from otcache_core.contracts import VideoWriter
from otcache_core.testing import VideoWriterConformance
from otcache_video.writers import Mp4, WebP, durations, eight_bit, even

Floats = NDArray[np.float64]


def rgb(frame: Any) -> Floats:
    """BT.709, limited range, worked out from the planes of a decoded frame."""
    assert frame.format.name == "yuv420p"
    y, cb, cr = (
        np.frombuffer(plane, np.uint8)
        .reshape(plane.height, plane.line_size)[:, : plane.width]
        .astype(np.float64)
        for plane in frame.planes
    )
    cb, cr = (c.repeat(2, 0).repeat(2, 1) for c in (cb, cr))
    y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    r, b = y + 1.5748 * cr, y + 1.8556 * cb
    g = (y - 0.2126 * r - 0.0722 * b) / 0.7152
    return np.stack([r, g, b], -1).clip(0, 1)


def decode_mp4(path: Path) -> tuple[Floats, Floats]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        frames, times = [], []
        for frame in container.decode(stream):
            frames.append(rgb(frame))
            times.append(frame.time)
    np.testing.assert_allclose(times, np.arange(len(times)) / float(rate), atol=1e-3)
    return np.stack(frames), np.full(len(frames), 1 / float(rate))


def decode_webp(path: Path) -> tuple[Floats, Floats]:
    with Image.open(path) as image:
        frames, seconds = [], []
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB"), np.float64) / 255)
            seconds.append(frame.info.get("duration", 0) / 1000)
    return np.stack(frames), np.array(seconds)


class TestMp4(VideoWriterConformance):
    def make_writer(self) -> VideoWriter:
        return Mp4()

    def decode(self, path: Path) -> tuple[Floats, Floats]:
        return decode_mp4(path)


class TestWebP(VideoWriterConformance):
    tolerance = 0.5 / 255

    def make_writer(self) -> VideoWriter:
        return WebP()

    def decode(self, path: Path) -> tuple[Floats, Floats]:
        return decode_webp(path)


def test_players_are_told_what_the_colours_mean(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    Mp4().write(path, VideoWriterConformance.video(), 24000 / 1001)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        coding = stream.codec_context
        assert (coding.name, coding.pix_fmt) == ("h264", "yuv420p")
        assert (coding.colorspace, coding.color_primaries, coding.color_trc) == (1, 1, 1)
        assert coding.color_range == 1
        assert stream.average_rate == Fraction(24000, 1001)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "a browser must load it all to begin"


def test_a_preview_loops_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "video.webp"
    WebP().write(path, VideoWriterConformance.video(), 8.0)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        assert image.n_frames == 5


@pytest.mark.parametrize("writer", [Mp4(), WebP()], ids=["mp4", "webp"])
def test_the_same_video_gives_the_same_bytes(tmp_path: Path, writer: VideoWriter) -> None:
    paths = [tmp_path / f"{i}{writer.suffixes[0]}" for i in range(2)]
    for path in paths:
        writer.write(path, VideoWriterConformance.video(), 8.0)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((48, 48), (240, 240)),
        ((48, 164), (240, 820)),
        ((720, 1280), (720, 1280)),
        ((1080, 1920), (1080, 1920)),
        ((121, 121), (121, 121)),
        ((100, 600), (200, 1200)),
        ((10, 1000), (10, 1000)),
    ],
)
def test_small_videos_are_enlarged_by_whole_factors(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    video = np.zeros((1, *size, 3))
    video[0, 0, 0] = 1.0
    frames = eight_bit(video)
    k = shown[0] // size[0]
    assert frames.shape[1:3] == shown
    assert (frames[0, :k, :k] == 255).all()
    assert frames.sum() == 255 * 3 * k * k


def test_odd_sizes_repeat_their_edge() -> None:
    frames = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    padded = even(frames)
    assert padded.shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(padded[:, :3, :5], frames)
    np.testing.assert_array_equal(padded[:, 3], padded[:, 2])
    np.testing.assert_array_equal(padded[:, :, 5], padded[:, :, 4])


def test_milliseconds_do_not_drift() -> None:
    times = durations(300, 24000 / 1001)
    assert abs(sum(times) - 1000 * 300 * 1001 / 24000) <= 0.5
    assert set(times) == {41, 42}
    assert durations(3, 5000.0) == [1, 1, 1]


@pytest.mark.remedy("lacks: install one of its wheels, pip install --only-binary=av av")
@pytest.mark.remedy("which cannot be imported ({}): pip install --force-reinstall 'av>=15.1'")
@pytest.mark.remedy("one of its wheels, pip install --only-binary=pillow pillow")
def test_no_codec_is_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = VideoWriterConformance.video()
    assert {"av>=15.1", "pillow>=10"} <= set(requires("otcache-video") or ())
    monkeypatch.setattr("av.codec.codecs_available", {"mpeg4"})
    with pytest.raises(OtcacheError, match=r"encoder libx264.*only-binary=av"):
        Mp4().write(tmp_path / "video.mp4", video, 8.0)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OtcacheError, match=r"needs PyAV.*pip install .*av>=15"):
        Mp4().write(tmp_path / "video.mp4", video, 8.0)
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(OtcacheError, match=r"Pillow with WebP.*only-binary=pillow"):
        WebP().write(tmp_path / "video.webp", video, 8.0)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()  # as the wheels are
    Mp4().write(tmp_path / "video.mp4", video, 8.0)
    WebP().write(tmp_path / "video.webp", video, 8.0)
