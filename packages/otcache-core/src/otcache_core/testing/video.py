"""Conformance tests of video metrics and video writers."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import VideoMetric, VideoWriter
from otcache_core.errors import FileError
from otcache_core.testing.assertions import RANDOM, random_state_of, unchanged
from otcache_core.testing.kit import Conformance, refused
from otcache_core.testing.metric_checks import Images, PairChecks, moving

Video = NDArray[np.floating]


class VideoMetricConformance(PairChecks, kit=True):
    """Tests for a :class:`~otcache_core.contracts.VideoMetric`.

    Override :meth:`make_metric`, and :meth:`expected_values` with arguments (videos, reference).

    Attributes:
        shape: shape of one frame.
        frames: number of frames of one video: at least 4, so that it differs from the number of videos, 3.
    """

    _takes = VideoMetric.takes
    _differences = (0.005, 0.1)
    _single = 1e-2
    shape: tuple[int, ...] = (48, 48, 3)
    frames: int = 5

    def _clean(self) -> Images:
        return moving(3, self.frames, self.shape)

    def _painted(self, value: float) -> Images:
        """Return the reference with a horizontal bar of one value, which moves down."""
        videos = self._clean()
        for t in range(self.frames):
            videos[:, t, 4 * t : 4 * t + self.shape[0] // 3] = value
        return videos

    def test_another_order_of_the_frames_is_worse(self) -> None:
        clean = self._clean()
        order = [*range(1, self.frames, 2), *range(0, self.frames, 2)]
        assert (self._losses(clean[:, order], clean) > self._losses(clean, clean)).all(), (
            "frames in another order are no worse: compare frame t with frame t of the reference"
        )

    def test_every_frame_counts(self) -> None:
        """Changing frame t alone, in video t of a batch, makes the value of that video worse."""
        worse, clean = self._arguments(0.3)
        t = np.arange(self.frames)
        full = clean[t % len(clean)]
        other = full.copy()
        other[t, t] = worse[t % len(clean), t]
        unmoved = t[self._losses(other, full) <= self._losses(full, full) + self.tolerance]
        assert not unmoved.size, f"frames {unmoved} make no difference: look at every frame"

    def test_other_shapes_are_refused(self) -> None:
        metric, clean = self.make_metric(), self._clean()
        for other in (clean[:2], clean[:, 1:], clean[:, :, 1:]):
            with refused("videos of other shapes"):
                metric(other, clean)

    def test_images_are_refused(self) -> None:
        images = self._clean()[:, 0]
        with refused("images instead of videos"):
            self.make_metric()(images, images)

    def test_one_frame_alone_is_refused(self) -> None:
        single = self._clean()[:, :1]
        with refused("one frame alone"):
            self.make_metric()(single, single)


class VideoWriterConformance(Conformance, kit=True):
    """Tests for a :class:`~otcache_core.contracts.VideoWriter`.

    Override :meth:`make_writer` and :meth:`decode`.

    Attributes:
        tolerance: largest mean absolute error of a decoded frame of smooth colours; pixels are in [0, 1].
    """

    tolerance: float = 0.01

    @abstractmethod
    def make_writer(self) -> VideoWriter:
        """Return a fresh writer."""

    @abstractmethod
    def decode(self, path: Path) -> tuple[Video, NDArray[np.float64]]:
        """Return the frames that a file stores and the duration of each in seconds.

        Frames are (stored, height, width, 3) in [0, 1]; the duration of a single frame is not checked.
        """

    @staticmethod
    def video(frames: int = 5, height: int = 24, width: int = 32) -> Video:
        """Return a colour gradient in which a bright square moves right; no two frames are alike."""
        y, x = np.mgrid[0:height, 0:width]
        base = np.stack([x / width, y / height, np.full_like(x, 0.4, dtype=float)], -1) * 0.7
        video = np.repeat(base[None].astype(np.float64), frames, axis=0)
        side = height // 3
        for t in range(frames):
            left = t * (width - side) // max(frames - 1, 1)
            video[t, side : 2 * side, left : left + side] = (0.9, 0.1 + 0.8 * t / frames, 0.2)
        return video

    def test_suffixes_are_lower_case_with_a_dot(self) -> None:
        suffixes = self.make_writer().suffixes
        assert suffixes, "suffixes are empty: name those of the files it writes"
        plain = all(s.startswith(".") and s == s.lower() for s in suffixes)
        assert plain, f"suffixes are {suffixes}: write them in lower case, with a dot"

    def test_frames_order_rate_and_colours_are_the_videos(self) -> None:
        video = self.video()
        apart = np.abs(np.diff(video, axis=0)).mean((1, 2, 3)).min()
        assert apart > 2 * self.tolerance, "frames differ by less: set a smaller tolerance"
        for rate in (5.0, 8.0, 25.0):
            stored = self._written(video, rate)
            assert len(stored) == len(video), f"{len(stored)} frames are stored: write {len(video)}"

    def test_any_size_can_be_written(self) -> None:
        for size in ((1, 1), (7, 5), (17, 64), (48, 48)):
            self._written(np.array([0.2, 0.8, 0.5]).reshape(3, 1, 1, 1) * np.ones((3, *size, 3)))

    def test_a_single_frame_is_a_video(self) -> None:
        video = self.video(frames=1)
        with _folder() as folder:
            self.make_writer().write(self._path(folder), video, 8.0)
            frames, _ = self.decode(self._path(folder))
        assert len(frames) == 1, f"{len(frames)} frames of one are stored: write it once"
        error = np.abs(_reduced(frames, *video.shape[1:3]) - video).mean()
        assert error <= self.tolerance, (
            f"the frame is {error:.3g} off, allowed are {self.tolerance}"
        )

    def test_still_frames_last_as_long_as_moving_ones(self) -> None:
        self._written(self.video().repeat([1, 3, 1, 2, 1], axis=0))

    def test_single_precision_will_do_and_is_not_changed(self) -> None:
        """Videos of float32 and float64 can both be written, and neither is changed."""
        for video in (self.video(), self.video().astype(np.float32)):
            with unchanged(video=video):
                self._written(video)

    def test_a_file_does_not_depend_on_what_was_written_before(self) -> None:
        """One writer writes a video, another video and the first one again."""
        writer, video = self.make_writer(), self.video()
        with _folder() as folder:
            written = {"first": video, "other": 1.0 - video, "again": video}
            for name, frames in written.items():
                writer.write(self._path(folder, name), frames, 8.0)
            for name, frames in written.items():
                self._check(self._path(folder, name), frames, 8.0)

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        with _folder() as folder:
            path, video = self._path(folder), self.video()
            left = random_state_of(lambda: self.make_writer().write(path, video, 8.0))
        assert left == random_state_of(lambda: None), RANDOM

    def test_a_file_is_replaced_and_nothing_else_is_left(self) -> None:
        with _folder() as folder:
            path, writer = self._path(folder), self.make_writer()
            writer.write(path, np.zeros((2, 16, 16, 3)), 8.0)
            writer.write(path, self.video(), 8.0)
            self._check(path, self.video(), 8.0)
            _check_alone(path)

    def test_capitals_in_the_suffix_will_do(self) -> None:
        with _folder() as folder:
            path = self._path(folder).with_suffix(self.make_writer().suffixes[0].upper())
            self.make_writer().write(path, self.video(), 8.0)
            assert path.exists(), f"{path.name} is not there: write to the path that is given"

    def test_a_missing_folder_is_a_file_error(self) -> None:
        with _folder() as folder, refused("a missing folder", "nowhere", FileError):
            self.make_writer().write(self._path(folder / "nowhere"), self.video(), 8.0)

    def test_an_error_leaves_the_file_that_was_there(self) -> None:
        with _folder() as folder:
            path = self._path(folder)
            path.write_bytes(b"mine")
            with refused("a video out of range"):
                self.make_writer().write(path, self.video() + 1.0, 8.0)
            kept = path.read_bytes() == b"mine"
            assert kept, "the file that was there is changed: replace it when all is written"
            _check_alone(path)

    def test_what_is_no_video_is_refused(self) -> None:
        others: dict[str, NDArray[Any]] = {
            "an image": np.zeros((8, 8, 3)),
            "a stack of videos": np.zeros((1, 2, 8, 8, 3)),
            "a video with alpha": np.zeros((2, 8, 8, 4)),
            "a video of no frames": np.zeros((0, 8, 8, 3)),
            "a video of bytes": np.zeros((2, 8, 8, 3), dtype=np.uint8),
            "a video up to 255": np.full((2, 8, 8, 3), 255.0),
            "a video of NaN": np.full((2, 8, 8, 3), np.nan),
        }
        with _folder() as folder:
            for what, other in others.items():
                with refused(what, "video"):
                    self.make_writer().write(self._path(folder), other, 8.0)
            left = sorted(p.name for p in folder.iterdir())
            assert not left, f"{left} are left of what was refused: check the video first"

    def test_a_rate_that_is_none_is_refused(self) -> None:
        with _folder() as folder:
            for rate in (0.0, -1.0, float("nan"), float("inf")):
                with refused(f"a rate of {rate}", "frames_per_second"):
                    self.make_writer().write(self._path(folder), self.video(), rate)

    def test_another_suffix_is_refused(self) -> None:
        with _folder() as folder, refused("another suffix", "must be a name that ends on"):
            self.make_writer().write(folder / "video.txt", self.video(), 8.0)

    def _path(self, folder: Path, name: str = "video") -> Path:
        return folder / f"{name}{self.make_writer().suffixes[0]}"

    def _written(self, video: Video, rate: float = 8.0) -> Video:
        """Write a video, assert that the file shows it, and return the stored frames."""
        with _folder() as folder:
            self.make_writer().write(self._path(folder), video, rate)
            return self._check(self._path(folder), video, rate)

    def _check(self, path: Path, video: Video, rate: float) -> Video:
        """Assert that a file shows this video at this rate, and return the stored frames."""
        stored, seconds = self.decode(path)
        lasts = float(seconds.sum())
        assert np.isclose(lasts, len(video) / rate, rtol=0.02), (
            f"the file lasts {lasts:g} s, the video {len(video) / rate:g}: write it at frames_per_second"
        )
        midtimes = (np.arange(len(video)) + 0.5) / rate
        frames = stored[np.searchsorted(seconds.cumsum(), midtimes)]
        error = np.abs(_reduced(frames, *video.shape[1:3]) - video).mean((1, 2, 3)).max()
        assert error <= self.tolerance, (
            f"a frame is {error:.3g} off, more than {self.tolerance}: look at order, range and channels"
        )
        return stored


def _reduced(frames: Video, height: int, width: int) -> Video:
    """Undo upscaling and padding by the writer: average blocks of k by k pixels, and crop the rest."""
    k = min(frames.shape[1] // height, frames.shape[2] // width)
    assert k >= 1, (
        f"decoded frames are {frames.shape[1:3]}, the video {(height, width)}: write it at its size or larger"
    )
    cut = frames[:, : k * height, : k * width]
    reduced: Video = cut.reshape(-1, height, k, width, k, 3).mean((2, 4))
    return reduced


def _check_alone(path: Path) -> None:
    """Assert that a file is the only one in its folder."""
    others = sorted(p.name for p in path.parent.iterdir() if p != path)
    assert not others, f"{others} are left beside {path.name}: remove what is temporary"


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
