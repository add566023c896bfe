"""The kits of clip, prompt and set metrics pass what keeps the contracts, and fail what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from otcache_core import OtcacheError
from otcache_core.contracts import ClipMetric, Metric, PromptMetric, QualityMetric, SetMetric
from otcache_core.plugins import Info, Registry, hookimpl
from otcache_core.testing import (
    ClipMetricConformance,
    KnownAnswer,
    MetricConformance,
    PromptMetricConformance,
    SetMetricConformance,
)


def _check(images: np.ndarray) -> None:
    if images.dtype.kind != "f" or images.min() < 0 or images.max() > 1:
        raise OtcacheError("not pictures in [0, 1]")


class Prompted(PromptMetric):
    """Mean redness, times the length of the prompt."""

    name, higher_is_better = "redness", True

    def __call__(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        _check(images)
        if len(prompts) != len(images):
            raise OtcacheError("one prompt a picture")
        return images[..., 0].mean((1, 2)) * [len(prompt) for prompt in prompts]


class TestPrompted(PromptMetricConformance):
    def make_metric(self) -> PromptMetric:
        return Prompted()

    def known_answer(self) -> KnownAnswer:
        """0.5 times 2, and 1 times 3."""
        x = np.zeros((2, 8, 8, 3))
        x[0, ..., 0], x[1, ..., 0] = 0.5, 1.0
        return KnownAnswer((x, ("ab", "abc")), [1.0, 3.0])


class MeanColour(SetMetric):
    """Distance of the mean colour to that of eight waves."""

    name, higher_is_better = "mean-colour", False

    def __call__(self, images: np.ndarray) -> float:
        _check(images)
        return float(np.linalg.norm(images.mean((0, 1, 2)) - [0.5, 0.4, 0.3]))


class TestMeanColour(SetMetricConformance):
    def make_metric(self) -> SetMetric:
        return MeanColour()

    def known_answer(self) -> KnownAnswer:
        """The mean is (0.5, 0.4, 0.6)."""
        x = np.broadcast_to([0.1, 0.8, 0.3], (2, 8, 8, 3)).copy()
        x[1] = [0.9, 0.0, 0.9]
        return KnownAnswer((x,), 0.3)


class Steps(ClipMetric):
    """How far the steps from frame to frame are off, root mean square."""

    name, higher_is_better = "steps", False

    def __call__(self, clips: np.ndarray, reference: np.ndarray) -> np.ndarray:
        for stack in (clips, reference):
            _check(stack)
            if stack.ndim != 5 or stack.shape != reference.shape or stack.shape[1] < 2:
                raise OtcacheError("not clips of one shape")
        off = np.diff(clips.astype(np.float64), axis=1) - np.diff(reference, axis=1)
        return np.sqrt((off**2).mean((1, 2, 3, 4)))


class TestSteps(ClipMetricConformance):
    channel_blind = True

    def make_metric(self) -> ClipMetric:
        return Steps()

    def known_answer(self) -> KnownAnswer:
        """The last of three frames is off by d in one channel: of six steps' channels one is."""
        y = np.full((2, 3, 8, 8, 3), 0.2)
        x = y.copy()
        x[0, 2, ..., 0], x[1, 2, ..., 2] = 0.5, 1.0
        return KnownAnswer((x, y), np.array([0.3, 0.8]) / np.sqrt(6))


class Neighbours(QualityMetric):
    """Says that it is pointwise, and compares each pixel with the next one's difference."""

    name, higher_is_better, pointwise = "neighbours", False, True

    def __call__(self, images: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.abs(np.diff(images - reference, axis=1)).mean((1, 2, 3))


class Rolled(PromptMetric):
    """Pairs each picture with the prompt before its own."""

    name, higher_is_better = "redness", True

    def __call__(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        return Prompted()(images, [*prompts[1:], *prompts[:1]])


class Forgetful(SetMetric):
    """Leaves the first picture out."""

    name, higher_is_better = "mean-colour", False

    def __call__(self, images: np.ndarray) -> float:
        return MeanColour()(images[1:])


def test_a_kit_fails_a_metric_that_calls_itself_pointwise() -> None:
    class Kit(MetricConformance):
        def make_metric(self) -> QualityMetric:
            return Neighbours()

        def known_answer(self) -> KnownAnswer:
            raise NotImplementedError

    with pytest.raises(AssertionError):
        Kit().test_a_pointwise_metric_does_not_know_where_a_pixel_lies()


def test_a_kit_fails_clips_whose_frames_are_off_by_one() -> None:
    class Late(Steps):
        def __call__(self, clips: np.ndarray, reference: np.ndarray) -> np.ndarray:
            return super().__call__(np.roll(clips, 1, axis=1), reference)

    class Kit(TestSteps):
        def make_metric(self) -> ClipMetric:
            return Late()

    with pytest.raises(AssertionError):
        Kit().test_identical_clips_are_best()


def test_a_kit_fails_prompts_that_are_off_by_one() -> None:
    class Kit(TestPrompted):
        def make_metric(self) -> PromptMetric:
            return Rolled()

    with pytest.raises(AssertionError):
        Kit().test_pictures_do_not_influence_each_other()
    with pytest.raises(AssertionError):
        Kit().test_the_known_answer()


def test_a_kit_fails_a_set_that_lacks_a_picture() -> None:
    class Kit(TestMeanColour):
        def make_metric(self) -> SetMetric:
            return Forgetful()

    with pytest.raises(AssertionError):
        Kit().test_every_picture_counts()


@pytest.mark.parametrize(
    ("pictures", "value", "message"),
    [
        (np.ones((1, 4, 4, 3)), [1.0], "two pictures"),
        (np.full((2, 4, 4, 3), 0.5), [1.0, 2.0], "reach 0.9"),
        (np.ones((2, 4, 4, 3)), [1.0, 2.0], "coloured"),
        (np.ones((2, 4, 4, 3)) * [1.0, 0.0, 0.5], [1.0, 1.0], "values that differ"),
    ],
)
def test_a_known_answer_that_tells_nothing_is_refused(
    pictures: np.ndarray, value: Any, message: str
) -> None:
    class Kit(TestPrompted):
        def known_answer(self) -> KnownAnswer:
            return KnownAnswer((pictures, ["a"] * len(pictures)), value)

    with pytest.raises(AssertionError, match=message):
        Kit().test_the_known_answer()


@pytest.mark.parametrize("metric", [Prompted, MeanColour, Steps])
def test_the_registry_takes_every_kind_of_metric(metric: type[Metric]) -> None:
    class Plugin:
        @hookimpl
        def otcache_provide_metrics(self) -> list[Info]:
            return [Info("mine", f"{__name__}:{metric.__name__}")]

    registry = Registry(entry_points=False)
    registry.register(Plugin())
    assert isinstance(registry.create("metrics", "mine"), Metric)


def test_each_kind_says_what_it_takes() -> None:
    kinds = (QualityMetric, ClipMetric, PromptMetric, SetMetric)
    assert [kind.takes for kind in kinds] == ["pairs", "clips", "prompts", "set"]
    assert Metric.needs == ""
