"""Images and videos under metrics of images and of videos."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core import OtcacheError
from otcache_core.contracts import QualityMetric, VideoMetric, metric_values, per_frame


class Rmse(QualityMetric):
    name, higher_is_better, pointwise = "rmse", False, True

    def __call__(self, images: np.ndarray, reference: np.ndarray) -> np.ndarray:
        assert images.ndim == 4
        return np.sqrt(np.mean((images - reference) ** 2, axis=(1, 2, 3)))


class Worst(QualityMetric):
    """The greatest difference: not pointwise, since no mean over pixels gives it."""

    name, higher_is_better = "worst", False

    def __call__(self, images: np.ndarray, reference: np.ndarray) -> np.ndarray:
        assert images.ndim == 4
        return np.abs(images - reference).max(axis=(1, 2, 3))


class LastFrame(VideoMetric):
    name, higher_is_better = "last-frame", False

    def __call__(self, videos: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.abs(videos - reference)[:, -1].mean(axis=(1, 2, 3))


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two videos of three frames: of the first, frame f is off by (0.1, 0.2, 0.5)[f] everywhere."""
    full = np.full((2, 3, 4, 6, 3), 0.25)
    made = full.copy()
    made[0] += np.array([0.1, 0.2, 0.5])[:, None, None, None]
    made[1, 2] += 0.3
    return made, full


def test_a_pointwise_metric_is_pooled_over_all_frames() -> None:
    wanted = np.sqrt([(0.01 + 0.04 + 0.25) / 3, 0.09 / 3])
    np.testing.assert_allclose(metric_values(Rmse(), *pair()), wanted, rtol=1e-12)


def test_any_other_metric_is_averaged_over_frames() -> None:
    np.testing.assert_allclose(metric_values(Worst(), *pair()), [0.8 / 3, 0.1], rtol=1e-12)


def test_single_frames() -> None:
    wanted = [[0.1, 0.2, 0.5], [0.0, 0.0, 0.3]]
    for metric in (Rmse(), Worst()):
        np.testing.assert_allclose(per_frame(metric, *pair()), wanted, atol=1e-12)


def test_a_metric_of_videos_gets_whole_videos() -> None:
    np.testing.assert_allclose(metric_values(LastFrame(), *pair()), [0.5, 0.3], rtol=1e-12)


def test_images_are_compared_as_ever() -> None:
    made, full = (videos[:, 2] for videos in pair())
    for metric in (Rmse(), Worst()):
        np.testing.assert_array_equal(metric_values(metric, made, full), metric(made, full))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_the_mean_square_of_a_video_is_the_mean_of_its_frames(
    n: int, frames: int, seed: int
) -> None:
    made, full = np.random.default_rng(seed).random((2, n, frames, 3, 2, 3))
    squares = per_frame(Rmse(), made, full) ** 2
    np.testing.assert_allclose(metric_values(Rmse(), made, full) ** 2, squares.mean(axis=1))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_the_order_of_frames_does_not_matter_if_both_have_it(
    n: int, frames: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    made, full = rng.random((2, n, frames, 3, 2, 3))
    order = rng.permutation(frames)
    for metric in (Rmse(), Worst()):
        np.testing.assert_allclose(
            metric_values(metric, made[:, order], full[:, order]), metric_values(metric, made, full)
        )


def test_a_metric_of_videos_refuses_images() -> None:
    made, full = (videos[:, 0] for videos in pair())
    with pytest.raises(OtcacheError, match=r"last-frame: what is compared must be videos.*images"):
        metric_values(LastFrame(), made, full)
    with pytest.raises(OtcacheError, match="must be videos"):
        per_frame(Rmse(), made, full)


@pytest.mark.parametrize("metric", [Rmse(), Worst(), LastFrame()])
def test_other_shapes_are_refused(metric: QualityMetric | VideoMetric) -> None:
    made, full = pair()
    for other in (made[:, :2], made[:1], made[:, :, :2]):
        with pytest.raises(OtcacheError, match="shape of the videos must be that of the full run"):
            metric_values(metric, other, full)
    with pytest.raises(OtcacheError, match="must be videos"):
        metric_values(metric, made[:, 0], full)
