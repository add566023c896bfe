"""The metrics are offered by name and keep the contract."""

from __future__ import annotations

import pytest

from otcache_core.contracts.metric import QualityMetric
from otcache_core.testing import MetricConformance
from otcache_diffusers.metrics.lpips import Lpips
from otcache_diffusers.metrics.psnr import Psnr
from otcache_diffusers.metrics.rmse import Rmse
from otcache_diffusers.metrics.ssim import Ssim
from otcache_diffusers.plugin import otcache_provide_metrics

OFFERED = {info.name: info for info in otcache_provide_metrics()}


def test_four_metrics_are_offered() -> None:
    assert sorted(OFFERED) == ["lpips", "psnr", "rmse", "ssim"]


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_each_loads_under_its_own_name(name: str) -> None:
    metric = OFFERED[name].load()()
    assert isinstance(metric, QualityMetric)
    assert metric.name == name


class TestRmse(MetricConformance):
    def make_metric(self) -> QualityMetric:
        return Rmse()


class TestPsnr(MetricConformance):
    def make_metric(self) -> QualityMetric:
        return Psnr()


class TestSsim(MetricConformance):
    def make_metric(self) -> QualityMetric:
        return Ssim()


class TestLpips(MetricConformance):
    def make_metric(self) -> QualityMetric:
        return Lpips()
