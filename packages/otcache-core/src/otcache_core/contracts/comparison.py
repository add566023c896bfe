"""Contracts of comparisons: baselines, quality metrics and writers of video files."""

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
    """One place on a baseline's knob.

    Args:
        label: how tables write it, as ``threshold=0.12``; distinct among the baseline's settings.
        values: what :meth:`Baseline.apply` reads; plain data.
        num_steps: N the pipeline is called with under this setting.
        computed: computed steps of 0 .. num_steps-1, where they are known beforehand and the same for
            every input; None elsewhere.
    """

    label: str
    values: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int = 0
    computed: tuple[int, ...] | None = None


class Baseline(FromRegistry, ABC):
    """A rival of the arena: a cache of another project, a published rule, or fewer steps.

    The arena gives each baseline a process of its own and calls, in this order, :meth:`supports`,
    :meth:`calibrate` once, :meth:`settings`, and for each setting :meth:`apply` around whole runs of
    the pipeline, one sample a call: once for all held-out samples, and again for each run that is timed
    beside a plain full run.

    Laws: between two contexts of :meth:`apply` the pipeline gives the bits it gave before; every run in
    a context begins with empty caches, so that a result depends on its own prompt and seed alone. Whatever
    other plugin it uses is that of ``self.registry``.

    Attributes:
        source: project, version and rule, as the report names it.
        by_budget: whether :meth:`settings` gives one setting a budget. If not, they are a ladder from
            mildest to most aggressive, and the arena measures on calibration samples which of them
            lands nearest to each budget.
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
            Plain data, kept on disk and handed to :meth:`settings` and :meth:`apply`; ``nfe``, where
            present, is its price in network evaluations of one sample; None where it came tuned.
        """
        return {}

    @abstractmethod
    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """What can be run for a full run of N steps.

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
        """A context in which runs of the target's pipeline are made this way.

        Raises:
            OtcacheError: if it cannot be applied after all.
        """


Takes = Literal["pairs", "clips", "prompts", "set"]


class Metric(ABC):
    """What the four kinds of metrics have in common; a plugin subclasses one of the kinds.

    Laws: pictures are not changed, values outside [0, 1] and other types than floating point are
    refused, and the same arguments give the same value.

    Attributes:
        name: short name, as tables print it.
        higher_is_better: True for PSNR and SSIM, False for distances.
        takes: which kind it is: ``pairs`` (:class:`QualityMetric`), ``clips``
            (:class:`VideoMetric`), ``prompts`` (:class:`PromptMetric`) or ``set``
            (:class:`SetMetric`).
        needs: what a local path must be given to, as the argument ``path`` of the constructor, in a
            few words; empty where nothing is needed. Without the path construction raises
            OtcacheError that says where to get it.
    """

    name: str
    higher_is_better: bool
    takes: ClassVar[Takes]
    needs: ClassVar[str] = ""


class QualityMetric(Metric):
    """Compare accelerated pictures with the full run's, one number a pair.

    :func:`~otcache_core.contracts.metric_values` takes it to clips.

    Attributes:
        pointwise: whether a value is a function of the mean over pixels of a function of both
            pictures' pixels, as RMSE and PSNR are: the order of the pixels does not matter, and the
            value of a clip is that of all its frames' pixels together. Of any other metric a clip's
            value is the mean over its frames.
    """

    takes = "pairs"
    pointwise: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture.

        Laws: a pair's value depends on this pair alone, and no pair is better than two identical
        pictures, whatever they show.

        Args:
            images: accelerated pictures, shape (n, height, width, 3), range [0, 1], channels red,
                green, blue.
            reference: the full run's pictures, same shape and range.

        Returns:
            Shape (n,), float64. For identical pictures a distance is 0 and SSIM is 1.

        Raises:
            OtcacheError: if shapes differ, or values leave [0, 1] or are not floating point.
        """


class VideoMetric(Metric):
    """Compare accelerated clips with the full run's over time, one number a pair."""

    takes = "clips"

    @abstractmethod
    def __call__(
        self, clips: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare clip by clip.

        Laws: a pair's value depends on this pair alone, and no pair is better than two identical
        clips, whatever they show.

        Args:
            clips: accelerated clips, shape (n, frames, height, width, 3), at least two frames, range
                [0, 1], channels red, green, blue.
            reference: the full run's clips, same shape and range.

        Returns:
            Shape (n,), float64; 0 for identical clips where lower is better.

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, or values leave [0, 1] or are
                not floating point.
        """


class PromptMetric(Metric):
    """Judge pictures by what they were to show, one number a picture; no reference is needed.

    It has no best value, so a full run is judged beside the accelerated ones.

    Attributes:
        takes_videos: whether ``images`` may be clips, shape (n, frames, height, width, 3).
    """

    takes = "prompts"
    takes_videos: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, images: NDArray[np.floating], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Judge picture by picture.

        Law: a picture's value depends on this picture and its prompt alone.

        Args:
            images: shape (n, height, width, 3), range [0, 1], channels red, green, blue.
            prompts: n texts, one a picture.

        Returns:
            Shape (n,), float64.

        Raises:
            OtcacheError: if there is another number of prompts, or values leave [0, 1] or are not
                floating point.
        """


class SetMetric(Metric):
    """Judge all pictures of a method together, by one number: a distance of distributions.

    Attributes:
        takes_videos: whether ``images`` may be clips, shape (n, frames, height, width, 3).
    """

    takes = "set"
    takes_videos: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, images: NDArray[np.floating]) -> float:
        """Judge the set.

        Laws: the order of the pictures does not matter, and every picture counts.

        Args:
            images: shape (n, height, width, 3), range [0, 1], channels red, green, blue.

        Raises:
            OtcacheError: if values leave [0, 1] or are not floating point, or there are too few
                pictures to judge.
        """


CLIPS = "clips, shape (n, frames, height, width, 3)"


def metric_values(
    metric: QualityMetric | VideoMetric, made: NDArray[np.floating], full: NDArray[np.floating]
) -> NDArray[np.float64]:
    r"""One number for each picture or clip.

    A :class:`VideoMetric` is asked for whole clips. A :class:`QualityMetric` is asked for pictures;
    of a clip of F frames it gives, with d its value of two pictures,

    .. math:: \tfrac{1}{F} \sum_f d(x_f, y_f), \quad\text{or}\quad
              d\bigl([x_1; \dots; x_F], [y_1; \dots; y_F]\bigr) \ \text{if pointwise},

    where [ ] lays frames below one another: the RMSE of a clip is the root of one mean over all its
    pixels, and its PSNR follows from it.

    Args:
        metric: of pairs of pictures, or of clips.
        made: pictures, shape (n, height, width, 3), or clips, shape (n, frames, height, width, 3),
            range [0, 1].
        full: the full run's, same shape and range.

    Returns:
        Shape (n,), float64.

    Raises:
        OtcacheError: if a metric of clips is given pictures, shapes differ, or the metric refuses
            what it is given.
    """
    if isinstance(metric, VideoMetric):
        return metric(*_clips(metric, made, full))
    if np.ndim(made) != 5 and np.ndim(full) != 5:
        return metric(made, full)
    if not metric.pointwise:
        return np.asarray(per_frame(metric, made, full).mean(axis=1))
    x, y = _clips(metric, made, full)
    n, _, _, width, channels = x.shape
    return metric(x.reshape(n, -1, width, channels), y.reshape(n, -1, width, channels))


def per_frame(
    metric: QualityMetric, clips: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    """One number for each frame of each clip.

    Args:
        metric: of pairs of pictures; it is asked for one clip at a time, which bounds its memory.
        clips: shape (n, frames, height, width, 3), range [0, 1].
        reference: the full run's clips, same shape and range.

    Returns:
        Shape (n, frames), float64.

    Raises:
        OtcacheError: if these are not clips, shapes differ, or the metric refuses a frame.
    """
    x, y = _clips(metric, clips, reference)
    return np.stack([metric(made, full) for made, full in zip(x, y, strict=True)])


def _clips(
    metric: QualityMetric | VideoMetric, made: NDArray[np.floating], full: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    x, y = np.asarray(made), np.asarray(full)
    for stack in (x, y):
        if stack.ndim != 5 or 0 in stack.shape:
            got = "pictures" if stack.ndim == 4 else stack.shape
            raise OtcacheError(expected(f"{metric.name}: what is compared", got, CLIPS))
    if x.shape != y.shape:
        wanted = f"that of the full run's, {y.shape}"
        raise OtcacheError(expected(f"{metric.name}: shape of the clips", x.shape, wanted))
    return x, y


class VideoWriter(ABC):
    """Write one clip to one file.

    Laws: played, the file shows frame t of the clip from t / rate to (t + 1) / rate seconds; frames
    that equal the one before may be held instead of stored again. Each pixel is shown as a square of
    k by k pixels for a whole k, with repeated edge pixels at the right and the bottom where a codec
    wants more; colours are those of the clip within the error of the codec. A file appears whole or
    not at all, and an error leaves what stood there. The clip is not changed.

    Attributes:
        suffixes: lower-case endings of file names it writes, with the dot: ``(".mp4",)``.
    """

    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def write(self, path: str | Path, clip: NDArray[np.floating], frames_per_second: float) -> None:
        """Write the clip; a file that stands there is replaced.

        Args:
            path: ends on one of :attr:`suffixes`, in whatever case; its folder exists.
            clip: shape (frames, height, width, 3), range [0, 1], channels red, green, blue.
            frames_per_second: above 0, constant over the clip; what the format cannot hold is rounded.

        Raises:
            FileError: if the file cannot be written.
            OtcacheError: if shape, type, range, rate or suffix is another (:func:`check_video`), or
                what encodes it is not installed.
        """


def check_video(
    writer: VideoWriter, path: str | Path, clip: NDArray[np.floating], frames_per_second: float
) -> None:
    """Refuse what no writer takes.

    Raises:
        OtcacheError: if the clip is not of shape (frames, height, width, 3) with at least one of each,
            not floating point or not in [0, 1], the frame rate is not above 0, or the suffix is not
            among the writer's.
    """
    if Path(path).suffix.lower() not in writer.suffixes:
        wanted = f"a name that ends on {' or '.join(writer.suffixes)}"
        raise OtcacheError(expected("path of a clip", str(path), wanted))
    if clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
        wanted = "of shape (frames, height, width, 3), nothing of it empty"
        raise OtcacheError(expected("a clip", f"shape {clip.shape}", wanted))
    if not np.issubdtype(clip.dtype, np.floating):
        raise OtcacheError(expected("a clip", str(clip.dtype), "floating point in [0, 1]"))
    low, high = float(clip.min()), float(clip.max())
    if not (low >= 0 and high <= 1):
        raise OtcacheError(expected("values of a clip", (low, high), "in [0, 1]"))
    if not (math.isfinite(frames_per_second) and frames_per_second > 0):
        raise OtcacheError(expected("frames_per_second", frames_per_second, "a number above 0"))
