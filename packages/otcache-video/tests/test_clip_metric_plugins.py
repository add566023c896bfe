"""Every clip metric keeps the laws of its kind."""

from __future__ import annotations

import sys
from pathlib import Path

from otcache_core.contracts import VideoMetric
from otcache_core.plugins import Registry

sys.path.insert(0, str(Path(__file__).parent))
import clip_kits


class TestFlicker(clip_kits.FlickerKit): ...


class TestTemporalLpips(clip_kits.TemporalLpipsKit): ...


class TestWarpingError(clip_kits.WarpingErrorKit): ...


class TestMotionMagnitude(clip_kits.MotionMagnitudeKit): ...


class TestSubjectConsistency(clip_kits.SubjectConsistencyKit): ...


class TestSubjectConsistencyOnDino(clip_kits.DinoKit): ...


def test_all_are_offered_and_named_alike() -> None:
    registry = Registry()
    offers = registry.infos("metrics")
    names = {o.info.name for o in offers if o.distribution == "otcache-video"}
    assert names == set(clip_kits.KITS)
    for name in names:
        metric = registry.create("metrics", name)
        assert isinstance(metric, VideoMetric)
        assert (metric.name, metric.takes) == (name, "clips")
