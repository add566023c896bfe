"""What metrics keep of the clips they compare with."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from otcache_core.contracts.comparison import VideoMetric
from otcache_video.metrics.features import SubjectConsistency, TemporalLpips
from otcache_video.metrics.motion import MotionMagnitude, WarpingError
from otcache_video.metrics.pairs import Clip, Kept


def _clip(value: float) -> Clip:
    return np.full((2, 4, 4, 3), value)


class Counted:
    """The first value of a clip, and which were asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, clip: Clip) -> float:
        self.asked.append(float(clip.flat[0]))
        return self.asked[-1]


def test_a_clip_is_looked_at_once() -> None:
    kept = Kept(counted := Counted())
    assert [kept(_clip(v)) for v in (0.1, 0.2, 0.1, 0.2)] == [0.1, 0.2, 0.1, 0.2]
    assert counted.asked == [0.1, 0.2]


def test_content_and_shape_tell_clips_apart() -> None:
    kept = Kept(counted := Counted())
    clip = _clip(0.1)
    kept(clip)
    clip[0, 0, 0, 0] = 0.3
    assert kept(clip) == 0.3
    kept(clip.reshape(4, 2, 4, 3))
    kept(clip.astype(np.float32).astype(np.float64))
    assert len(counted.asked) == 4  # 0.3 is no float32


def test_the_clips_seen_last_stay() -> None:
    kept = Kept(counted := Counted(), lambda found: 10, most_bytes=20)
    for value in (0.1, 0.2, 0.1, 0.3, 0.1, 0.2):
        kept(_clip(value))
    assert counted.asked == [0.1, 0.2, 0.3, 0.2]


def test_what_does_not_fit_is_not_kept() -> None:
    kept = Kept(counted := Counted(), lambda found: 100 if found > 0.5 else 10, most_bytes=20)
    for value in (0.1, 0.9, 0.9, 0.1):
        kept(_clip(value))
    assert counted.asked == [0.1, 0.9, 0.9]


@pytest.mark.parametrize("kind", [MotionMagnitude, SubjectConsistency, TemporalLpips, WarpingError])
def test_a_metric_that_remembers_says_the_same(kind: type[VideoMetric]) -> None:
    random = np.random.default_rng(0)
    made, full, other = random.random((3, 2, 3, 32, 32, 3))
    metric = kind()
    metric(other, full)
    metric(full, other)
    metric = pickle.loads(pickle.dumps(metric))
    np.testing.assert_array_equal(metric(made, full), kind()(made, full))
