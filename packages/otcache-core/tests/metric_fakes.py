"""Metrics of videos, prompts and sets that keep their contracts, and their kits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from otcache_core import OtcacheError
from otcache_core.contracts import PromptMetric, SetMetric, VideoMetric
from otcache_core.testing import (
    ExpectedValues,
    PromptMetricConformance,
    SetMetricConformance,
    VideoMetricConformance,
)


def _check(images: np.ndarray) -> None:
    if images.dtype.kind != "f" or images.min() < 0 or images.max() > 1:
        raise OtcacheError("not images in [0, 1]")


class Prompted(PromptMetric):
    """Mean redness, times the length of the prompt."""

    name, higher_is_better = "redness", True

    def __call__(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        _check(images)
        if len(prompts) != len(images):
            raise OtcacheError("one prompt an image")
        return images[..., 0].mean((1, 2)) * [len(prompt) for prompt in prompts]


class PromptedKit(PromptMetricConformance):
    def make_metric(self) -> PromptMetric:
        return Prompted()

    def expected_values(self) -> ExpectedValues:
        """0.5 times 2, and 1 times 3."""
        x = np.zeros((2, 8, 8, 3))
        x[0, ..., 0], x[1, ..., 0] = 0.5, 1.0
        return ExpectedValues((x, ("ab", "abc")), [1.0, 3.0])


class MeanColour(SetMetric):
    """Distance of the mean colour to that of eight waves."""

    name, higher_is_better = "mean-colour", False

    def __call__(self, images: np.ndarray) -> float:
        _check(images)
        return float(np.linalg.norm(images.mean((0, 1, 2)) - [0.5, 0.4, 0.3]))


class MeanColourKit(SetMetricConformance):
    def make_metric(self) -> SetMetric:
        return MeanColour()

    def expected_values(self) -> ExpectedValues:
        """Return an image whose mean is (0.5, 0.4, 0.6)."""
        x = np.broadcast_to([0.1, 0.8, 0.3], (2, 8, 8, 3)).copy()
        x[1] = [0.9, 0.0, 0.9]
        return ExpectedValues((x,), 0.3)


class Steps(VideoMetric):
    """How far the steps from frame to frame are off, root mean square."""

    name, higher_is_better = "steps", False

    def __call__(self, videos: np.ndarray, reference: np.ndarray) -> np.ndarray:
        for stack in (videos, reference):
            _check(stack)
            if stack.ndim != 5 or stack.shape != reference.shape or stack.shape[1] < 2:
                raise OtcacheError("not videos of one shape")
        off = np.diff(videos.astype(np.float64), axis=1) - np.diff(reference, axis=1)
        return np.sqrt((off**2).mean((1, 2, 3, 4)))


class StepsKit(VideoMetricConformance):
    channel_blind = True

    def make_metric(self) -> VideoMetric:
        return Steps()

    def expected_values(self) -> ExpectedValues:
        """Check the last of three frames, off by d in one channel of six."""
        y = np.full((2, 3, 8, 8, 3), 0.2)
        x = y.copy()
        x[0, 2, ..., 0], x[1, 2, ..., 2] = 0.5, 1.0
        return ExpectedValues((x, y), np.array([0.3, 0.8]) / np.sqrt(6))
