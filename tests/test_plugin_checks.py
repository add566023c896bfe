"""``otcache plugins check`` takes otcache's own plugins too, those of tensors on loops of tensors."""

from __future__ import annotations

import pytest

from otcache.plugin_tools.checking import check
from otcache_core.plugins import installed
from otcache_diffusers.metrics.legible import Legible


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("probes", "torch"),
        ("executors", "torch"),
        ("metrics", "ms-ssim"),
        ("metrics", "flicker"),
        ("cost_models", "outcome"),
        ("baselines", "otcache/uniform-taylor"),
        ("forecasters", "fitted"),
        ("writers", "mp4"),
    ],
)
def test_ours_pass(kind: str, name: str) -> None:
    checked = check(installed(), name, kind)
    assert (checked.failed, checked.unchecked) == (False, "")
    assert checked.counts()["passed"] >= len(checked.results) / 2


def test_a_plugin_s_class_may_excuse_laws_with_reasons() -> None:
    legible = check(installed(), "legible")
    assert not legible.failed
    assert legible.counts()["fails as expected"] == len(Legible.expected_failures) == 4


def test_what_only_its_own_tests_can_check_is_said() -> None:
    blocks = check(installed(), "torch-blocks")
    assert (blocks.failed, blocks.results) == (False, ())
    assert "only a test of its package can: " in blocks.unchecked
