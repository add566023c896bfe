"""What metrics keep of the videos they compare with."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core.contracts import VideoMetric
from otcache_video.metrics.features import SubjectConsistency, TemporalLpips
from otcache_video.metrics.motion import MotionMagnitude, WarpingError
from otcache_video.metrics.pairs import ONE_NUMBER, Memory, Video


def _video(value: float) -> Video:
    return np.full((2, 4, 4, 3), value)


class Counted:
    """The first value of a video, and which values were looked for."""

    def __init__(self) -> None:
        self.looked: list[float] = []

    def __call__(self, video: Video) -> float:
        self.looked.append(float(video.flat[0]))
        return self.looked[-1]


def test_a_video_is_looked_at_once() -> None:
    memory = Memory(counted := Counted())
    assert [memory(_video(v)) for v in (0.1, 0.2, 0.1, 0.2)] == [0.1, 0.2, 0.1, 0.2]
    assert counted.looked == [0.1, 0.2]


def test_videos_differ_by_content_and_shape() -> None:
    memory = Memory(counted := Counted())
    video = _video(0.1)
    memory(video)
    video[0, 0, 0, 0] = 0.3
    assert memory(video) == 0.3
    memory(video.reshape(4, 2, 4, 3))
    memory(video.astype(np.float32).astype(np.float64))
    assert len(counted.looked) == 4  # 0.3 is not a float32


def test_the_videos_seen_last_stay() -> None:
    memory = Memory(counted := Counted(), most_bytes=2 * ONE_NUMBER)
    for value in (0.1, 0.2, 0.1, 0.3, 0.1, 0.2):
        memory(_video(value))
    assert counted.looked == [0.1, 0.2, 0.3, 0.2]


def test_what_does_not_fit_is_not_kept() -> None:
    counted = Counted()

    def find(video: Video) -> tuple[NDArray[np.float64], float]:
        return np.zeros(100 if counted(video) > 0.5 else 1), 0.0

    memory = Memory(find, most_bytes=400)
    for value in (0.1, 0.9, 0.9, 0.1):
        memory(_video(value))
    assert counted.looked == [0.1, 0.9, 0.9]


@pytest.mark.parametrize("kind", [MotionMagnitude, SubjectConsistency, TemporalLpips, WarpingError])
def test_a_metric_that_remembers_gives_the_same(kind: type[VideoMetric]) -> None:
    random = np.random.default_rng(0)
    made, full, other = random.random((3, 2, 3, 32, 32, 3))
    metric = kind()
    metric(other, full)
    metric(full, other)
    metric = pickle.loads(pickle.dumps(metric))
    np.testing.assert_array_equal(metric(made, full), kind()(made, full))
