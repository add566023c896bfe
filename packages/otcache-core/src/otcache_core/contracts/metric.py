"""Contracts of a quality metric: of pairs of pictures or clips, of pictures and prompts, of a set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Takes = Literal["pairs", "clips", "prompts", "set"]


class Metric(ABC):
    """What the four kinds of metrics have in common; a plugin subclasses one of the kinds.

    Laws: pictures are not changed, values outside [0, 1] and other types than floating point are
    refused, and the same arguments give the same value.

    Attributes:
        name: short name, as tables print it.
        higher_is_better: True for PSNR and SSIM, False for distances.
        takes: which kind it is: ``pairs`` (:class:`QualityMetric`), ``clips``
            (:class:`ClipMetric`), ``prompts`` (:class:`PromptMetric`) or ``set``
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

    :func:`~otcache_core.contracts.compare` takes it to clips.

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


class ClipMetric(Metric):
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
        takes_clips: whether ``images`` may be clips, shape (n, frames, height, width, 3).
    """

    takes = "prompts"
    takes_clips: ClassVar[bool] = False

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
        takes_clips: whether ``images`` may be clips, shape (n, frames, height, width, 3).
    """

    takes = "set"
    takes_clips: ClassVar[bool] = False

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
