"""The metrics are offered by name and keep the contract."""

from __future__ import annotations

import metric_kits
import pytest

from otcache_core import OtcacheError
from otcache_core.contracts import Metric, PromptMetric, QualityMetric, SetMetric
from otcache_core.plugins import Registry
from otcache_diffusers.plugin import otcache_provide_metrics

OFFERED = {info.name: info for info in otcache_provide_metrics()}
KINDS = {"pairs": QualityMetric, "prompts": PromptMetric, "set": SetMetric}


def test_every_metric_that_is_offered_has_a_kit() -> None:
    assert sorted(OFFERED) == sorted(metric_kits.KITS)


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_each_loads_under_its_own_name(name: str) -> None:
    metric = Registry().get("metrics", name)
    assert issubclass(metric, Metric)
    assert metric.name == name
    assert issubclass(metric, KINDS[metric.takes])


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_each_is_made_without_arguments_or_says_what_it_needs(name: str) -> None:
    registry = Registry()
    if not registry.get("metrics", name).needs:
        assert registry.create("metrics", name).name == name
        return
    with pytest.raises(OtcacheError, match="must be given as a local path, got none: "):
        registry.create("metrics", name)


class TestRmse(metric_kits.RmseKit):
    pass


class TestPsnr(metric_kits.PsnrKit):
    pass


class TestSsim(metric_kits.SsimKit):
    pass


class TestMsSsim(metric_kits.MsSsimKit):
    pass


class TestHaarPsi(metric_kits.HaarPsiKit):
    pass


class TestLpips(metric_kits.LpipsKit):
    pass


class TestLpipsVgg(metric_kits.LpipsVggKit):
    pass


class TestFrechet(metric_kits.FrechetKit):
    pass


class TestClipScore(metric_kits.ClipScoreKit):
    pass


class TestImageReward(metric_kits.ImageRewardKit):
    pass
