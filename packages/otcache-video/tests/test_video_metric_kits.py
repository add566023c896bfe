"""Every video metric passes the checks of its kind."""

from __future__ import annotations

import sys
from pathlib import Path

from otcache_core.contracts import VideoMetric
from otcache_core.plugins import Registry

sys.path.insert(0, str(Path(__file__).parent))
import video_kits


class TestFlicker(video_kits.FlickerKit): ...


class TestTemporalLpips(video_kits.TemporalLpipsKit): ...


class TestWarpingError(video_kits.WarpingErrorKit): ...


class TestMotionMagnitude(video_kits.MotionMagnitudeKit): ...


class TestSubjectConsistency(video_kits.SubjectConsistencyKit): ...


class TestSubjectConsistencyOnDino(video_kits.DinoKit): ...


def test_all_are_offered_and_named_alike() -> None:
    registry = Registry()
    offers = registry.infos("metrics")
    names = {o.info.name for o in offers if o.distribution == "otcache-video"}
    assert names == set(video_kits.KITS)
    for name in names:
        metric = registry.create("metrics", name)
        assert isinstance(metric, VideoMetric)
        assert (metric.name, metric.takes) == (name, VideoMetric.takes)
