"""Contracts of comparisons: baselines, metrics of images and videos, and writers of video files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.execution import FromRegistry, SampleRequest
from otcache_core.errors import OtcacheError, expected


@dataclass(frozen=True)
class BaselineSetting:
    """One value of a baseline's parameter.

    Args:
        label: its name in tables, as ``threshold=0.12``; distinct among the baseline's settings.
        values: what :meth:`Baseline.apply` reads; plain data.
        num_steps: N the pipeline is called with under this setting.
        computed: computed steps of 0 .. num_steps-1, if they are known beforehand and the same for
            every input; else None.
    """

    label: str
    values: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int = 0
    computed: tuple[int, ...] | None = None


class Baseline(FromRegistry, ABC):
    """Another method in ``otcache compare``: a cache of another project, a published rule, or fewer steps.

    A comparison gives each baseline a process of its own and calls, in this order, :meth:`supports`,
    :meth:`calibrate` once, :meth:`settings`, and for each setting :meth:`apply` around whole runs of
    the pipeline, one sample per call: once for all held-out samples, and again for each run that is timed
    beside a plain full run.

    Requirements: between two contexts of :meth:`apply` the pipeline gives the bits it gave before; every
    run in a context begins with empty caches, so that a result depends on its own prompt and seed alone.
    Other plugins that it uses are those of ``self.registry``.

    Attributes:
        source: project, version and rule, for the report.
        by_budget: whether :meth:`settings` gives one setting a budget. If not, they are a ladder from
            mildest to most aggressive, and the comparison measures on calibration samples which of them is
            nearest to each budget.
        adaptive: whether decisions depend on the input, so that evaluations differ from sample to
            sample and are counted on several.
    """

    source: str = ""
    by_budget: bool = False
    adaptive: bool = False

    @abstractmethod
    def supports(self, target: Any, request: SampleRequest) -> str:
        """Return "" if the target can be run this way, else the reason why not.

        Must be cheap and change nothing; a library that is not installed is a reason that names it.
        """

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Measure on calibration samples what the method needs, as its authors do.

        Returns:
            Plain data, kept on disk and given to :meth:`settings` and :meth:`apply`; ``nfe``, if there is
            one, is the cost in network evaluations of one sample; None if it came tuned.
        """
        return {}

    @abstractmethod
    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """Return what can be run for a full run of N steps.

        Args:
            num_steps: N.
            budgets: B of the comparison, increasing.
            measured: what :meth:`calibrate` returned.

        Returns:
            One setting for each budget, in order (``by_budget``), or a ladder.
        """

    @abstractmethod
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        """Return a context in which the target's pipeline runs this way.

        Raises:
            OtcacheError: if it cannot be applied after all.
        """


Takes = Literal["pairs", "videos", "prompts", "set"]


class Metric(ABC):
    """Base of the four kinds of metrics; a plugin subclasses one of the kinds.

    Requirements: images are not changed, values outside [0, 1] and other types than floating point are
    refused, and the same arguments give the same value.

    Attributes:
        name: short name, as tables print it.
        higher_is_better: True for PSNR and SSIM, False for distances.
        takes: which kind it is: ``pairs`` (:class:`QualityMetric`), ``videos``
            (:class:`VideoMetric`), ``prompts`` (:class:`PromptMetric`) or ``set``
            (:class:`SetMetric`).
        needs: the file that the constructor's argument ``path`` must name, in a few words; empty if none is
            needed. Without the path construction raises an OtcacheError that says where to get it.
    """

    name: str
    higher_is_better: bool
    takes: ClassVar[Takes]
    needs: ClassVar[str] = ""


class QualityMetric(Metric):
    """Compares accelerated images with the full run's, one number a pair.

    :func:`~otcache_core.contracts.metric_values` extends it to videos.

    Attributes:
        pointwise: whether a value is a function of the mean over pixels of a function of both
            images' pixels, as RMSE and PSNR are: the order of the pixels does not matter, and the value of a
            video is that of all its frames' pixels together. For any other metric it is the mean over
            frames.
    """

    takes = "pairs"
    pointwise: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare image by image.

        Requirements: a pair's value depends on this pair alone, and no pair is better than two identical
        images.

        Args:
            images: accelerated images, shape (n, height, width, 3), range [0, 1], channels red,
                green, blue.
            reference: the full run's images, same shape and range.

        Returns:
            Shape (n,), float64. For identical images a distance is 0 and SSIM is 1.

        Raises:
            OtcacheError: if shapes differ, or values leave [0, 1] or are not floating point.
        """


class VideoMetric(Metric):
    """Compares accelerated videos with the full run's over time, one number a pair."""

    takes = "videos"

    @abstractmethod
    def __call__(
        self, videos: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare video by video.

        Requirements: a pair's value depends on this pair alone, and no pair is better than two identical
        videos.

        Args:
            videos: accelerated videos, shape (n, frames, height, width, 3), at least two frames, range
                [0, 1], channels red, green, blue.
            reference: the full run's videos, same shape and range.

        Returns:
            Shape (n,), float64; 0 for identical videos if lower is better.

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, or values leave [0, 1] or are
                not floating point.
        """


class PromptMetric(Metric):
    """Scores images by their prompts, one number per image, without a reference.

    It has no best value, so a full run is scored beside the accelerated ones.

    Attributes:
        takes_videos: whether ``images`` may be videos, shape (n, frames, height, width, 3).
    """

    takes = "prompts"
    takes_videos: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, images: NDArray[np.floating], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score image by image.

        Requirement: an image's value depends on this image and its prompt alone.

        Args:
            images: shape (n, height, width, 3), range [0, 1], channels red, green, blue.
            prompts: n texts, one per image.

        Returns:
            Shape (n,), float64.

        Raises:
            OtcacheError: if there is another number of prompts, or values leave [0, 1] or are not
                floating point.
        """


class SetMetric(Metric):
    """Scores all images of a method together, by one number: a distance of distributions.

    Attributes:
        takes_videos: whether ``images`` may be videos, shape (n, frames, height, width, 3).
    """

    takes = "set"
    takes_videos: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, images: NDArray[np.floating]) -> float:
        """Score the set.

        Requirements: the order of the images does not matter, and every image counts.

        Args:
            images: shape (n, height, width, 3), range [0, 1], channels red, green, blue.

        Raises:
            OtcacheError: if values leave [0, 1] or are not floating point, or there are too few
                images.
        """


VIDEOS = "videos, shape (n, frames, height, width, 3)"


def metric_values(
    metric: QualityMetric | VideoMetric, made: NDArray[np.floating], full: NDArray[np.floating]
) -> NDArray[np.float64]:
    r"""Compute a metric of each image or video.

    A :class:`VideoMetric` takes whole videos. A :class:`QualityMetric` takes images; for a video of F frames,
    with d its value of two images, the result is

    .. math:: \tfrac{1}{F} \sum_f d(x_f, y_f), \quad\text{or}\quad
              d\bigl([x_1; \dots; x_F], [y_1; \dots; y_F]\bigr) \ \text{if pointwise},

    where [ ] stacks frames vertically: the RMSE of a video is the root of one mean over all its pixels, and
    its PSNR follows from it.

    Args:
        metric: of pairs of images, or of videos.
        made: images, shape (n, height, width, 3), or videos, shape (n, frames, height, width, 3), range
            [0, 1].
        full: the full run's, same shape and range.

    Returns:
        Shape (n,), float64.

    Raises:
        OtcacheError: if a metric of videos is given images, shapes differ, or the metric refuses
            them.
    """
    if isinstance(metric, VideoMetric):
        return metric(*_videos(metric, made, full))
    if np.ndim(made) != 5 and np.ndim(full) != 5:
        return metric(made, full)
    if not metric.pointwise:
        return np.asarray(per_frame(metric, made, full).mean(axis=1))
    x, y = _videos(metric, made, full)
    n, _, _, width, channels = x.shape
    return metric(x.reshape(n, -1, width, channels), y.reshape(n, -1, width, channels))


def per_frame(
    metric: QualityMetric, videos: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Compute a metric of each frame of each video.

    Args:
        metric: of pairs of images; it is given one video at a time, which bounds its memory.
        videos: shape (n, frames, height, width, 3), range [0, 1].
        reference: the full run's videos, same shape and range.

    Returns:
        Shape (n, frames), float64.

    Raises:
        OtcacheError: if these are not videos, shapes differ, or the metric refuses a frame.
    """
    x, y = _videos(metric, videos, reference)
    return np.stack([metric(made, full) for made, full in zip(x, y, strict=True)])


def _videos(
    metric: QualityMetric | VideoMetric, made: NDArray[np.floating], full: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    x, y = np.asarray(made), np.asarray(full)
    for stack in (x, y):
        if stack.ndim != 5 or 0 in stack.shape:
            got = "images" if stack.ndim == 4 else stack.shape
            raise OtcacheError(expected(f"{metric.name}: what is compared", got, VIDEOS))
    if x.shape != y.shape:
        wanted = f"that of the full run's, {y.shape}"
        raise OtcacheError(expected(f"{metric.name}: shape of the videos", x.shape, wanted))
    return x, y


class VideoWriter(ABC):
    """Writes one video to one file that players or browsers show.

    Requirements: played, the file shows frame t of the video from t / rate to (t + 1) / rate seconds;
    frames that equal the one before may be held instead of stored again. Each pixel is shown as a square
    of k by k pixels for a whole k, with repeated edge pixels at the right and the bottom if a codec needs
    more; colours are those of the video within the error of the codec. A file is written whole or not at all,
    and an error leaves an earlier file as it was. The video is not changed.

    Attributes:
        suffixes: lower-case endings of file names it writes, with the dot: ``(".mp4",)``.
    """

    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def write(
        self, path: str | Path, video: NDArray[np.floating], frames_per_second: float
    ) -> None:
        """Write the video; an existing file is replaced.

        Args:
            path: ends on one of :attr:`suffixes`, in upper or lower case; its folder exists.
            video: shape (frames, height, width, 3), range [0, 1], channels red, green, blue.
            frames_per_second: above 0, constant over the video; rounded if the format cannot hold it.

        Raises:
            FileError: if the file cannot be written.
            OtcacheError: if shape, type, range, rate or suffix is wrong (:func:`check_video`), or the
                encoder is not installed.
        """


def check_video(
    writer: VideoWriter, path: str | Path, video: NDArray[np.floating], frames_per_second: float
) -> None:
    """Check the arguments of :meth:`VideoWriter.write`.

    Raises:
        OtcacheError: if the video is not of shape (frames, height, width, 3) with at least one of each,
            not floating point or not in [0, 1], the frame rate is not above 0, or the suffix is not
            among the writer's.
    """
    if Path(path).suffix.lower() not in writer.suffixes:
        wanted = f"a name that ends on {' or '.join(writer.suffixes)}"
        raise OtcacheError(expected("path of a video", str(path), wanted))
    if video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        wanted = "of shape (frames, height, width, 3), nothing of it empty"
        raise OtcacheError(expected("a video", f"shape {video.shape}", wanted))
    if not np.issubdtype(video.dtype, np.floating):
        raise OtcacheError(expected("a video", str(video.dtype), "floating point in [0, 1]"))
    low, high = float(video.min()), float(video.max())
    if not (low >= 0 and high <= 1):
        raise OtcacheError(expected("values of a video", (low, high), "in [0, 1]"))
    if not (math.isfinite(frames_per_second) and frames_per_second > 0):
        raise OtcacheError(expected("frames_per_second", frames_per_second, "a number above 0"))
