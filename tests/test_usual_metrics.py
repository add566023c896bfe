"""What a comparison measures by default if everything is installed."""

from __future__ import annotations

import numpy as np
import pytest

from otcache.comparison.metrics import OF_VIDEOS, Measures
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import Registry
from otcache_core.testing.metric_checks import moving, noisy

VIDEOS = moving(2, 3, (48, 48, 3))
PROMPTS = ("a star moves left", "a cat falls")


def test_usual_metrics_of_videos(recwarn: pytest.WarningsRecorder) -> None:
    measures = Measures.choose((), "demo:video", Registry()).usable(VIDEOS, PROMPTS)
    assert [*measures.metrics] == [*OF_VIDEOS]
    assert not [w for w in recwarn if issubclass(w.category, OtcacheNotice)]
    values = measures.values(noisy(VIDEOS, 0.05), VIDEOS, PROMPTS)
    assert [*values] == [*OF_VIDEOS]
    assert all(found.shape == (2,) and np.isfinite(found).all() for found in values.values())
    best = measures.values(VIDEOS, VIDEOS, PROMPTS)
    for name, metric in measures.metrics.items():
        assert ((best[name] > values[name]) == metric.higher_is_better).all()


def test_usual_metrics_of_images_have_none_of_videos(recwarn: pytest.WarningsRecorder) -> None:
    measures = Measures.choose((), "model", Registry()).usable(VIDEOS[:, 0], PROMPTS)
    assert [*measures.metrics][:3] == ["rmse", "psnr", "ssim"]
    assert not {"flicker", "warping-error"} & {*measures.metrics}
    assert not [w for w in recwarn if "flicker" in str(w.message)]


def test_what_was_asked_for_and_cannot_be_measured_is_named() -> None:
    measures = Measures.choose(("flicker",), "model", Registry())
    with pytest.warns(OtcacheNotice, match="flicker is omitted: .* must be videos"):
        assert "flicker" not in measures.usable(VIDEOS[:, 0], PROMPTS).metrics
    with pytest.warns(OtcacheNotice, match="flicker is omitted: .* at least 2"):
        assert "flicker" not in measures.usable(VIDEOS[:, :1], PROMPTS).metrics
