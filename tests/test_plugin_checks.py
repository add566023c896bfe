"""``otcache plugins check`` takes otcache's own plugins too, those of tensors on loops of tensors."""

from __future__ import annotations

import pytest

from otcache.plugin_tools.checking import Checked, check
from otcache_core.plugins import installed
from otcache_core.testing import LawResult, Outcome
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


def test_laws_of_which_none_is_kept_are_a_failure() -> None:
    about_the_kit = LawResult("test_no_law_was_taken_away", Outcome.KEPT)
    skipped = LawResult("test_a", Outcome.NOT_APPLICABLE, "nothing to see")
    for results, failed in [
        ((about_the_kit, skipped), True),
        ((LawResult("test_b", Outcome.KEPT),), False),
    ]:
        assert Checked("mine/mine", "solvers", results).failed is failed
    assert not Checked("mine/mine", "solvers", unchecked="it works on no toy loop").failed
