"""Laws of metrics of videos, and of what writes them to files."""

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
from otcache_core.testing.checks import (
    RANDOM,
    assert_equal,
    assert_near,
    random_state_of,
    unchanged,
)
from otcache_core.testing.kit import Conformance, refused
from otcache_core.testing.metric_laws import KnownAnswer, MetricLaws, Pictures, moving, noisy


class VideoMetricConformance(MetricLaws, kit=True):
    """Laws of :class:`~otcache_core.contracts.VideoMetric`.

    Override :meth:`make_metric` and :meth:`known_answer`.

    Attributes:
        shape: of one frame.
        frames: of one clip, at least 3 and another number than the kit's three clips.
        tolerance: how near to 0 the distance of identical clips is.
        channel_blind: whether the metric treats red, green and blue alike, so that swapping them in
            both clips changes nothing.
    """

    _takes = "clips"
    shape: tuple[int, ...] = (48, 48, 3)
    frames: int = 5
    tolerance: float = 1e-6
    channel_blind: bool = False

    @abstractmethod
    def make_metric(self) -> VideoMetric:
        """A fresh metric."""

    @abstractmethod
    def known_answer(self) -> KnownAnswer:
        """Values derived without the metric, for arguments (clips, reference)."""

    def _clips(self) -> Pictures:
        return moving(3, self.frames, self.shape)

    def _noisy(self, amount: float) -> Pictures:
        return noisy(self._clips(), amount)

    def _example(self, metric: VideoMetric, amount: float) -> NDArray[np.float64]:
        return metric(self._noisy(amount), self._clips())

    def _losses(self, clips: Pictures, reference: Pictures) -> NDArray[np.float64]:
        """The metric, turned so that lower is better."""
        metric = self.make_metric()
        return (-1.0 if metric.higher_is_better else 1.0) * metric(clips, reference)

    def test_the_known_answer(self) -> None:
        self._check_known(self.known_answer())

    def test_one_number_a_clip(self) -> None:
        values = self.make_metric()(self._noisy(0.1), self._clips())
        self._check_values(values, 3)

    def test_identical_clips_are_best(self) -> None:
        metric, clean = self.make_metric(), self._clips()
        same, worse = self._losses(clean, clean), self._losses(self._noisy(0.05), clean)
        assert (worse > same).all(), (
            "noisy clips are no worse than identical ones: is higher_is_better = "
            f"{metric.higher_is_better} right?"
        )
        if not metric.higher_is_better:
            what = "identical clips are not at 0: let the distance of a clip from itself be 0"
            assert_near(same, 0.0, what, atol=self.tolerance)

    def test_identical_clips_are_equally_good_whatever_they_show(self) -> None:
        clean = np.concatenate([self._clips(), self._noisy(0.1)])
        same = self.make_metric()(clean, clean)
        what = "the value of identical clips depends on what they show: it must be the same of all"
        assert_near(same, same[0], what, rtol=self.tolerance, atol=self.tolerance)

    def test_more_noise_is_worse(self) -> None:
        clean = self._clips()
        little, much = (self._losses(self._noisy(amount), clean) for amount in (0.02, 0.3))
        assert (little < much).all(), "more noise is not worse: is higher_is_better right?"

    def test_a_small_difference_is_small_in_both_directions(self) -> None:
        clean = self._clips()
        grain = 0.5 + 0.5 * np.random.default_rng(1).random(clean.shape)
        brighter, darker = (
            [self._losses(clean + sign * amount * grain, clean) for amount in (0.005, 0.1)]
            for sign in (1.0, -1.0)
        )
        below = np.maximum(brighter[0], darker[0]) < np.minimum(brighter[1], darker[1])
        assert below.all(), (
            "a small difference is no smaller than a large one, brighter or darker: look at signs"
        )

    def test_white_is_not_black(self) -> None:
        white, nearly, black = (self._clips() for _ in range(3))
        for t in range(self.frames):
            rows = slice(4 * t, 4 * t + self.shape[0] // 3)
            white[:, t, rows], nearly[:, t, rows], black[:, t, rows] = 1.0, 0.99, 0.0
        assert (self._losses(white, nearly) < self._losses(white, black)).all(), (
            "0.99 is no nearer to 1.0 than 0.0 is: do not let values wrap around"
        )

    def test_another_order_of_the_frames_is_worse(self) -> None:
        clean = self._clips()
        order = [*range(1, self.frames, 2), *range(0, self.frames, 2)]
        assert (self._losses(clean[:, order], clean) > self._losses(clean, clean)).all(), (
            "frames in another order are no worse: compare frame t with frame t of the reference"
        )

    def test_every_frame_counts(self) -> None:
        clean = self._clips()
        same = self._losses(clean, clean)
        for t in range(self.frames):
            other = clean.copy()
            other[:, t] = self._noisy(0.3)[:, t]
            assert (self._losses(other, clean) > same + self.tolerance).all(), (
                f"the value is the same whatever frame {t} is: look at every frame"
            )

    def test_channels_are_what_they_are_called(self) -> None:
        metric, answer = self.make_metric(), self.known_answer()
        x, y = answer.arguments
        self._check_channels(answer, metric(x[..., ::-1], y[..., ::-1]), blind=self.channel_blind)

    def test_clips_do_not_influence_each_other(self) -> None:
        metric, clean, worse = self.make_metric(), self._clips(), self._noisy(0.1)
        single = [metric(worse[i : i + 1], clean[i : i + 1])[0] for i in range(len(clean))]
        what = "a clip has another value beside others than alone: compare clip by clip"
        assert_near(metric(worse, clean), single, what, rtol=1e-4, atol=self.tolerance)

    def test_clips_are_not_changed(self) -> None:
        clean, worse = self._clips(), self._noisy(0.1)
        self.make_metric()(worse, clean)
        assert_equal(clean, self._clips(), "the reference was changed: work on a copy")
        assert_equal(worse, self._noisy(0.1), "the clips were changed: work on a copy")

    def test_single_precision_will_do(self) -> None:
        metric, clean, worse = self.make_metric(), self._clips(), self._noisy(0.1)
        single = metric(worse.astype(np.float32), clean.astype(np.float32))
        what = "clips of float32 have other values than those of float64: compute in float64"
        assert_near(single, metric(worse, clean), what, rtol=1e-2, atol=1e-3)

    def test_bytes_are_refused(self) -> None:
        clips = np.zeros((1, self.frames, *self.shape), dtype=np.uint8)
        with refused("clips of bytes"):
            self.make_metric()(clips, clips)  # type: ignore[arg-type]  # that is the point

    def test_values_out_of_range_are_refused(self) -> None:
        with refused("values up to 255"):
            self.make_metric()(255.0 * self._clips(), self._clips())

    def test_other_shapes_are_refused(self) -> None:
        metric, clean = self.make_metric(), self._clips()
        for other in (clean[:2], clean[:, 1:], clean[:, :, 1:]):
            with refused("clips of other shapes"):
                metric(other, clean)

    def test_pictures_are_refused(self) -> None:
        clean = self._clips()[:, 0]
        with refused("pictures instead of clips"):
            self.make_metric()(clean, clean)

    def test_one_frame_alone_is_refused(self) -> None:
        clean = self._clips()[:, :1]
        with refused("one frame alone"):
            self.make_metric()(clean, clean)


Clip = NDArray[np.floating]


class VideoWriterConformance(Conformance, kit=True):
    """Laws of :class:`~otcache_core.contracts.VideoWriter`.

    Override :meth:`make_writer` and :meth:`decode`.

    Attributes:
        tolerance: greatest mean error of a decoded frame of smooth colours, in [0, 1].
    """

    tolerance: float = 0.01

    @abstractmethod
    def make_writer(self) -> VideoWriter:
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
        assert k >= 1, (
            f"decoded frames are {frames.shape[1:3]}, the clip {(height, width)}: write it at its size or "
            "larger"
        )
        cut = frames[:, : k * height, : k * width]
        reduced: Clip = cut.reshape(-1, height, k, width, k, 3).mean((2, 4))
        return reduced

    def check(self, path: Path, clip: Clip, rate: float) -> None:
        """A file shows this clip at this rate."""
        stored, seconds = self.decode(path)
        lasts = float(seconds.sum())
        assert np.isclose(lasts, len(clip) / rate, rtol=0.02), (
            f"the file lasts {lasts:g} s, the clip {len(clip) / rate:g}: write it at frames_per_second"
        )
        middles = (np.arange(len(clip)) + 0.5) / rate
        frames = stored[np.searchsorted(seconds.cumsum(), middles)]
        shown = self.reduced(frames, *clip.shape[1:3])
        off = np.abs(shown - clip).mean((1, 2, 3)).max()
        assert off <= self.tolerance, (
            f"a decoded frame is {off:.3g} off, allowed are {self.tolerance}: look at order, range and "
            "colours"
        )

    def test_suffixes_are_lower_case_with_a_dot(self) -> None:
        suffixes = self.make_writer().suffixes
        assert suffixes, "suffixes are empty: name those of the files it writes"
        plain = all(s.startswith(".") and s == s.lower() for s in suffixes)
        assert plain, f"suffixes are {suffixes}: write them in lower case, with a dot"

    def test_frames_order_rate_and_colours_are_the_clips(self) -> None:
        clip = self.clip()
        apart = np.abs(np.diff(clip, axis=0)).mean((1, 2, 3)).min()
        assert apart > 2 * self.tolerance, (
            "the clip of the kit could not tell frames apart: give another"
        )
        for rate in (5.0, 8.0, 25.0):
            with _folder() as folder:
                self.make_writer().write(self.path(folder), clip, rate)
                self.check(self.path(folder), clip, rate)
                stored, _ = self.decode(self.path(folder))
                assert len(stored) == len(clip), (
                    f"{len(stored)} frames of {len(clip)} are stored: write each once"
                )

    def test_any_size_can_be_written(self) -> None:
        for size in ((1, 1), (7, 5), (17, 64), (48, 48)):
            clip = np.array([0.2, 0.8, 0.5]).reshape(3, 1, 1, 1) * np.ones((3, *size, 3))
            with _folder() as folder:
                self.make_writer().write(self.path(folder), clip, 8.0)
                self.check(self.path(folder), clip, 8.0)

    def test_a_single_frame_is_a_clip(self) -> None:
        clip = self.clip(frames=1)
        with _folder() as folder:
            self.make_writer().write(self.path(folder), clip, 8.0)
            frames, _ = self.decode(self.path(folder))
        assert len(frames) == 1, f"{len(frames)} frames of one are stored: write it once"
        off = np.abs(self.reduced(frames, *clip.shape[1:3]) - clip).mean()
        assert off <= self.tolerance, f"the frame is {off:.3g} off, allowed are {self.tolerance}"

    def test_where_nothing_moves_the_clip_is_as_long(self) -> None:
        clip = self.clip().repeat([1, 3, 1, 2, 1], axis=0)
        with _folder() as folder:
            self.make_writer().write(self.path(folder), clip, 8.0)
            self.check(self.path(folder), clip, 8.0)

    def test_channels_are_red_green_blue(self) -> None:
        for channel in range(3):
            clip = np.full((2, 16, 16, 3), 0.1)
            clip[..., channel] = 0.9
            with _folder() as folder:
                self.make_writer().write(self.path(folder), clip, 8.0)
                frames, _ = self.decode(self.path(folder))
            found = frames.mean((0, 1, 2)).argmax()
            assert found == channel, (
                f"channel {channel} is stored as channel {found}: channels are red, green, blue"
            )

    def test_single_precision_will_do(self) -> None:
        clip = self.clip()
        with _folder() as folder:
            self.make_writer().write(self.path(folder), clip.astype(np.float32), 8.0)
            self.check(self.path(folder), clip, 8.0)

    def test_the_clip_is_not_changed(self) -> None:
        clip = self.clip()
        with _folder() as folder, unchanged(clip=clip):
            self.make_writer().write(self.path(folder), clip, 8.0)

    def test_a_file_does_not_depend_on_what_was_written_before(self) -> None:
        """By one writer, which writes two clips and the first one again."""
        writer, clip = self.make_writer(), self.clip()
        with _folder() as folder:
            written = {"first": clip, "other": 1.0 - clip, "again": clip}
            for name, frames in written.items():
                writer.write(self.path(folder, name), frames, 8.0)
            for name, frames in written.items():
                self.check(self.path(folder, name), frames, 8.0)

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        with _folder() as folder:
            path, clip = self.path(folder), self.clip()
            left = random_state_of(lambda: self.make_writer().write(path, clip, 8.0))
        assert left == random_state_of(lambda: None), RANDOM

    def test_a_file_is_replaced_and_nothing_else_is_left(self) -> None:
        with _folder() as folder:
            path, writer = self.path(folder), self.make_writer()
            writer.write(path, np.zeros((2, 16, 16, 3)), 8.0)
            writer.write(path, self.clip(), 8.0)
            self.check(path, self.clip(), 8.0)
            _check_alone(path)

    def test_capitals_in_the_suffix_will_do(self) -> None:
        with _folder() as folder:
            path = self.path(folder).with_suffix(self.make_writer().suffixes[0].upper())
            self.make_writer().write(path, self.clip(), 8.0)
            assert path.exists(), f"{path.name} is not there: write to the path that is given"

    def test_a_missing_folder_is_a_file_error(self) -> None:
        with _folder() as folder, refused("a missing folder", "nowhere", FileError):
            self.make_writer().write(self.path(folder / "nowhere"), self.clip(), 8.0)

    def test_an_error_leaves_what_stood_there(self) -> None:
        with _folder() as folder:
            path = self.path(folder)
            path.write_bytes(b"mine")
            with refused("a clip out of range"):
                self.make_writer().write(path, self.clip() + 1.0, 8.0)
            kept = path.read_bytes() == b"mine"
            assert kept, "the file that stood there was changed: replace it when all is written"
            _check_alone(path)

    def test_what_is_no_clip_is_refused(self) -> None:
        others: dict[str, NDArray[Any]] = {
            "a picture": np.zeros((8, 8, 3)),
            "a stack of clips": np.zeros((1, 2, 8, 8, 3)),
            "a clip with alpha": np.zeros((2, 8, 8, 4)),
            "a clip of no frames": np.zeros((0, 8, 8, 3)),
            "a clip of bytes": np.zeros((2, 8, 8, 3), dtype=np.uint8),
            "a clip up to 255": np.full((2, 8, 8, 3), 255.0),
            "a clip of NaN": np.full((2, 8, 8, 3), np.nan),
        }
        with _folder() as folder:
            for what, other in others.items():
                with refused(what, "clip"):
                    self.make_writer().write(self.path(folder), other, 8.0)
            left = sorted(p.name for p in folder.iterdir())
            assert not left, f"{left} are left of what was refused: check the clip first"

    def test_a_rate_that_is_none_is_refused(self) -> None:
        with _folder() as folder:
            for rate in (0.0, -1.0, float("nan"), float("inf")):
                with refused(f"a rate of {rate}", "frames_per_second"):
                    self.make_writer().write(self.path(folder), self.clip(), rate)

    def test_another_suffix_is_refused(self) -> None:
        with _folder() as folder, refused("another suffix", "must be a name that ends on"):
            self.make_writer().write(folder / "clip.txt", self.clip(), 8.0)


def _check_alone(path: Path) -> None:
    """Assert that a file is the only one in its folder."""
    others = sorted(p.name for p in path.parent.iterdir() if p != path)
    assert not others, f"{others} are left beside {path.name}: remove what is temporary"


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
