"""The laws of a clip writer as tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core.contracts.clip_writer import ClipWriter
from otcache_core.errors import FileError, OtcacheError

Clip = NDArray[np.floating]


class ClipWriterConformance(ABC):
    """Laws of :class:`~otcache_core.contracts.ClipWriter`.

    Override :meth:`make_writer` and :meth:`decode`.

    Attributes:
        tolerance: greatest mean error of a decoded frame of smooth colours, in [0, 1].
    """

    tolerance: float = 0.01

    @abstractmethod
    def make_writer(self) -> ClipWriter:
        """A fresh writer."""

    @abstractmethod
    def decode(self, path: Path) -> tuple[Clip, NDArray[np.float64]]:
        """What a file stores: frames, (stored, height, width, 3) in [0, 1], and the seconds of each.

        Of a single frame the seconds do not matter.
        """

    def path(self, folder: Path, name: str = "clip") -> Path:
        """A name the writer takes."""
        return folder / f"{name}{self.make_writer().suffixes[0]}"

    @staticmethod
    def clip(frames: int = 5, height: int = 24, width: int = 32) -> Clip:
        """A colour gradient in which a bright square moves to the right; no two frames are alike."""
        y, x = np.mgrid[0:height, 0:width]
        base = np.stack([x / width, y / height, np.full_like(x, 0.4, dtype=float)], -1) * 0.7
        clip = np.repeat(base[None].astype(np.float64), frames, axis=0)
        side = height // 3
        for t in range(frames):
            left = t * (width - side) // max(frames - 1, 1)
            clip[t, side : 2 * side, left : left + side] = (0.9, 0.1 + 0.8 * t / frames, 0.2)
        return clip

    @staticmethod
    def reduced(frames: Clip, height: int, width: int) -> Clip:
        """Decoded frames with k by k pixels made one again, and what was added at the edges cut off."""
        k = min(frames.shape[1] // height, frames.shape[2] // width)
        assert k >= 1, f"decoded frames are {frames.shape[1:3]}, the clip {(height, width)}"
        cut = frames[:, : k * height, : k * width]
        reduced: Clip = cut.reshape(-1, height, k, width, k, 3).mean((2, 4))
        return reduced

    def check(self, path: Path, clip: Clip, rate: float) -> None:
        """A file shows this clip at this rate."""
        stored, seconds = self.decode(path)
        assert seconds.sum() == pytest.approx(len(clip) / rate, rel=0.02)
        middles = (np.arange(len(clip)) + 0.5) / rate
        frames = stored[np.searchsorted(seconds.cumsum(), middles)]
        shown = self.reduced(frames, *clip.shape[1:3])
        assert np.abs(shown - clip).mean((1, 2, 3)).max() <= self.tolerance

    def test_suffixes_are_lower_case_with_a_dot(self) -> None:
        suffixes = self.make_writer().suffixes
        assert suffixes
        assert all(s.startswith(".") and s == s.lower() for s in suffixes)

    @pytest.mark.parametrize("rate", [5.0, 8.0, 25.0])
    def test_frames_order_rate_and_colours_are_the_clips(self, tmp_path: Path, rate: float) -> None:
        clip = self.clip()
        self.make_writer().write(self.path(tmp_path), clip, rate)
        self.check(self.path(tmp_path), clip, rate)
        stored, _ = self.decode(self.path(tmp_path))
        assert len(stored) == len(clip)
        apart = np.abs(np.diff(clip, axis=0)).mean((1, 2, 3)).min()
        assert apart > 2 * self.tolerance, "the clip could not tell frames apart"

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (17, 64), (48, 48)])
    def test_any_size_can_be_written(self, tmp_path: Path, size: tuple[int, int]) -> None:
        clip = np.array([0.2, 0.8, 0.5]).reshape(3, 1, 1, 1) * np.ones((3, *size, 3))
        self.make_writer().write(self.path(tmp_path), clip, 8.0)
        self.check(self.path(tmp_path), clip, 8.0)

    def test_a_single_frame_is_a_clip(self, tmp_path: Path) -> None:
        clip = self.clip(frames=1)
        self.make_writer().write(self.path(tmp_path), clip, 8.0)
        frames, _ = self.decode(self.path(tmp_path))
        assert len(frames) == 1
        shown = self.reduced(frames, *clip.shape[1:3])
        assert np.abs(shown - clip).mean() <= self.tolerance

    def test_where_nothing_moves_the_clip_is_as_long(self, tmp_path: Path) -> None:
        clip = self.clip().repeat([1, 3, 1, 2, 1], axis=0)
        self.make_writer().write(self.path(tmp_path), clip, 8.0)
        self.check(self.path(tmp_path), clip, 8.0)

    @pytest.mark.parametrize("channel", [0, 1, 2])
    def test_channels_are_red_green_blue(self, tmp_path: Path, channel: int) -> None:
        clip = np.full((2, 16, 16, 3), 0.1)
        clip[..., channel] = 0.9
        self.make_writer().write(self.path(tmp_path), clip, 8.0)
        frames, _ = self.decode(self.path(tmp_path))
        assert frames.mean((0, 1, 2)).argmax() == channel

    def test_single_precision_will_do(self, tmp_path: Path) -> None:
        clip = self.clip()
        self.make_writer().write(self.path(tmp_path), clip.astype(np.float32), 8.0)
        self.check(self.path(tmp_path), clip, 8.0)

    def test_the_clip_is_not_changed(self, tmp_path: Path) -> None:
        clip = self.clip()
        self.make_writer().write(self.path(tmp_path), clip, 8.0)
        np.testing.assert_array_equal(clip, self.clip())

    def test_a_file_is_replaced_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        path, writer = self.path(tmp_path), self.make_writer()
        writer.write(path, np.zeros((2, 16, 16, 3)), 8.0)
        writer.write(path, self.clip(), 8.0)
        self.check(path, self.clip(), 8.0)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_capitals_in_the_suffix_will_do(self, tmp_path: Path) -> None:
        path = self.path(tmp_path).with_suffix(self.make_writer().suffixes[0].upper())
        self.make_writer().write(path, self.clip(), 8.0)
        assert path.exists()

    def test_a_missing_folder_is_a_file_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="nowhere"):
            self.make_writer().write(self.path(tmp_path / "nowhere"), self.clip(), 8.0)

    def test_an_error_leaves_what_stood_there(self, tmp_path: Path) -> None:
        path = self.path(tmp_path)
        path.write_bytes(b"mine")
        with pytest.raises(OtcacheError):
            self.make_writer().write(path, self.clip() + 1.0, 8.0)
        assert path.read_bytes() == b"mine"
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize(
        "clip",
        [
            np.zeros((8, 8, 3)),
            np.zeros((1, 2, 8, 8, 3)),
            np.zeros((2, 8, 8, 4)),
            np.zeros((0, 8, 8, 3)),
            np.zeros((2, 8, 8, 3), dtype=np.uint8),
            np.full((2, 8, 8, 3), 255.0),
            np.full((2, 8, 8, 3), np.nan),
        ],
        ids=["picture", "stack", "alpha", "empty", "bytes", "range", "nan"],
    )
    def test_what_is_no_clip_is_refused(self, tmp_path: Path, clip: Clip) -> None:
        with pytest.raises(OtcacheError, match="clip"):
            self.make_writer().write(self.path(tmp_path), clip, 8.0)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_rate_that_is_none_is_refused(self, tmp_path: Path, rate: float) -> None:
        with pytest.raises(OtcacheError, match="frames_per_second"):
            self.make_writer().write(self.path(tmp_path), self.clip(), rate)

    def test_another_suffix_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(OtcacheError, match="must be a name that ends on"):
            self.make_writer().write(tmp_path / "clip.txt", self.clip(), 8.0)
