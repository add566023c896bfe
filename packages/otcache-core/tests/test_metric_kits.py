"""The kits of video, prompt and set metrics pass what keeps the contracts, and fail what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import metric_fakes
import numpy as np
import pytest
from metric_fakes import MeanColour, MeanColourKit, Prompted, PromptedKit, Steps, StepsKit

from otcache_core.contracts import Metric, PromptMetric, QualityMetric, SetMetric, VideoMetric
from otcache_core.plugins import Info, Registry, hookimpl
from otcache_core.testing import (
    ExpectedValues,
    MetricConformance,
)


class TestPrompted(metric_fakes.PromptedKit): ...


class TestMeanColour(metric_fakes.MeanColourKit): ...


class TestSteps(metric_fakes.StepsKit): ...


class Neighbours(QualityMetric):
    """Says that it is pointwise, and compares each pixel with the next one's difference."""

    name, higher_is_better, pointwise = "neighbours", False, True

    def __call__(self, images: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.abs(np.diff(images - reference, axis=1)).mean((1, 2, 3))


class Rolled(PromptMetric):
    """Pairs each image with the prompt before its own."""

    name, higher_is_better = "redness", True

    def __call__(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        return Prompted()(images, [*prompts[1:], *prompts[:1]])


class Forgetful(SetMetric):
    """Omits the first image."""

    name, higher_is_better = "mean-colour", False

    def __call__(self, images: np.ndarray) -> float:
        return MeanColour()(images[1:])


def test_a_kit_fails_a_metric_that_calls_itself_pointwise() -> None:
    class Kit(MetricConformance):
        def make_metric(self) -> QualityMetric:
            return Neighbours()

        def expected_values(self) -> ExpectedValues:
            raise NotImplementedError

    with pytest.raises(AssertionError):
        Kit().test_a_pointwise_metric_does_not_know_where_a_pixel_lies()


def test_a_kit_fails_videos_whose_frames_are_off_by_one() -> None:
    class Late(Steps):
        def __call__(self, videos: np.ndarray, reference: np.ndarray) -> np.ndarray:
            return super().__call__(np.roll(videos, 1, axis=1), reference)

    class Kit(StepsKit):
        def make_metric(self) -> VideoMetric:
            return Late()

    with pytest.raises(AssertionError):
        Kit().test_identical_inputs_are_best()


def test_a_kit_fails_prompts_that_are_off_by_one() -> None:
    class Kit(PromptedKit):
        def make_metric(self) -> PromptMetric:
            return Rolled()

    with pytest.raises(AssertionError):
        Kit().test_values_do_not_depend_on_the_batch()
    with pytest.raises(AssertionError):
        Kit().test_the_expected_values()


def test_a_kit_fails_a_set_that_lacks_an_image() -> None:
    class Kit(MeanColourKit):
        def make_metric(self) -> SetMetric:
            return Forgetful()

    with pytest.raises(AssertionError):
        Kit().test_every_image_counts()


@pytest.mark.parametrize(
    ("images", "value", "message"),
    [
        (np.ones((1, 4, 4, 3)), [1.0], "two images"),
        (np.full((2, 4, 4, 3), 0.5), [1.0, 2.0], "reach 0.9"),
        (np.ones((2, 4, 4, 3)), [1.0, 2.0], "coloured"),
        (np.ones((2, 4, 4, 3)) * [1.0, 0.0, 0.5], [1.0, 1.0], "values that differ"),
    ],
)
def test_expected_values_that_show_nothing_are_refused(
    images: np.ndarray, value: Any, message: str
) -> None:
    class Kit(PromptedKit):
        def expected_values(self) -> ExpectedValues:
            return ExpectedValues((images, ["a"] * len(images)), value)

    with pytest.raises(AssertionError, match=message):
        Kit().test_the_expected_values()


@pytest.mark.parametrize("metric", [Prompted, MeanColour, Steps])
def test_the_registry_takes_every_kind_of_metric(metric: type[Metric]) -> None:
    class Plugin:
        @hookimpl
        def otcache_provide_metrics(self) -> list[Info]:
            return [Info("mine", f"metric_fakes:{metric.__name__}")]

    registry = Registry(entry_points=False)
    registry.register(Plugin())
    assert isinstance(registry.create("metrics", "mine"), Metric)


def test_each_kind_says_what_it_takes() -> None:
    kinds = (QualityMetric, VideoMetric, PromptMetric, SetMetric)
    assert [kind.takes for kind in kinds] == ["pairs", "videos", "prompts", "set"]
    assert Metric.needs == ""
