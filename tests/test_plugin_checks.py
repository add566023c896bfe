"""``otcache plugins check`` takes otcache's own plugins too, those of tensors on loops of tensors."""

from __future__ import annotations

import re
import sys
import types
import unittest
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otcache.plugin_tools.checking import Checked, check
from otcache_core.plugins import Info, Registry, hookimpl, installed
from otcache_core.plugins.lookups import CONTRACTS
from otcache_core.plugins.registry import hook_name
from otcache_core.problem import Result, ScheduleProblem
from otcache_core.testing import CheckResult, ExpectedValues, NotApplicable, Outcome
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


def test_a_plugin_s_class_may_excuse_checks_with_reasons() -> None:
    legible = check(installed(), "legible")
    assert not legible.failed
    assert legible.counts()["fails as expected"] == len(Legible.expected_failures) == 4


def test_what_only_its_own_tests_can_check_is_said() -> None:
    blocks = check(installed(), "torch-blocks")
    assert (blocks.failed, blocks.results) == (False, ())
    assert "only a test of its package can: " in blocks.unchecked


def test_checks_of_which_none_is_kept_are_a_failure() -> None:
    about_the_kit = CheckResult("test_no_check_was_removed", Outcome.PASSED)
    skipped = CheckResult("test_a", Outcome.NOT_APPLICABLE, "nothing to see")
    for results, failed in [
        ((about_the_kit, skipped), True),
        ((CheckResult("test_b", Outcome.PASSED),), False),
    ]:
        assert Checked("mine/mine", "solvers", results).failed is failed
    assert not Checked("mine/mine", "solvers", unchecked="it works on no toy loop").failed


def test_the_metric_that_the_page_works_out_passes_its_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    section = text.partition("\n## A metric, ")[2].partition("\n## ")[0]
    metric, kit = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    package, module = types.ModuleType("otcache_edge"), types.ModuleType("otcache_edge.metric")
    exec(metric, vars(module))
    package.metric = module
    monkeypatch.setitem(sys.modules, "otcache_edge", package)
    made = {"__name__": "test_edge"}
    exec(kit, made)
    report = made["TestEdgeMetric"].run_checks()
    assert report.passed, str(report)
    old = type("Old", (made["TestEdgeMetric"],), {"expected_values": lambda self: _flat()})
    assert "test_the_expected_values" in old.run_checks().failed


def _flat() -> ExpectedValues:
    """Return the expected values of the template."""
    reference = np.full((2, 8, 8, 3), 0.2)
    images = reference.copy()
    images[0, ..., 0], images[1, ..., 2] = 0.5, 1.0
    return ExpectedValues((images, reference), np.array([0.1, 0.8 / 3]))


def test_the_page_names_every_field_of_a_problem_and_every_result() -> None:
    text = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    for name in (*(f.name for f in fields(ScheduleProblem)), *(r.name for r in Result)):
        assert f"`{name}`" in text


class Failing:
    """Of any of three kinds; raises at its first call."""

    takes, needs, name, higher_is_better = "pairs", "", "mine", True
    made = True

    def __init__(self) -> None:
        if not self.made:
            raise RuntimeError("not made")

    def supports(self, target: Any) -> str:
        raise RuntimeError("no idea")

    def coefficients(self, span: Any, grid: Any) -> Any:
        raise RuntimeError("no idea")

    def __call__(self, images: Any, reference: Any) -> Any:
        raise RuntimeError("no idea")


def failing(kind: str, **attributes: Any) -> Checked:
    """Return what is said of a plugin of this kind that fails."""
    mine = types.ModuleType("of_mine")
    bases = (Failing, CONTRACTS[kind])
    mine.Mine = type("Mine", bases, {"__module__": "of_mine", **attributes})
    mine.Mine.__abstractmethods__ = frozenset()
    name = hook_name(kind)
    hook = hookimpl(lambda: [Info("mine", "of_mine:Mine", "fails")], specname=name)
    setattr(mine, name, hook)
    sys.modules["of_mine"] = mine
    try:
        registry = Registry(entry_points=False)
        registry.register(mine)
        return check(registry, "mine", kind)
    finally:
        del sys.modules["of_mine"]


@pytest.mark.parametrize("kind", ["forecasters", "metrics"])
def test_what_a_plugin_raises_at_its_first_call_is_reported_beside_the_checks(kind: str) -> None:
    checked = failing(kind)
    assert (checked.failed, checked.unchecked) == (True, "")
    assert "RuntimeError: no idea" in {result.reason for result in checked.results}


def test_one_that_is_made_and_fails_is_not_one_that_cannot_be_made() -> None:
    checked = failing("executors")
    assert (checked.failed, checked.unchecked) == (
        True,
        "it fails at its first call: RuntimeError: no idea",
    )
    unmade = failing("executors", made=False)
    assert unmade.failed
    assert "cannot be made" in unmade.unchecked


@pytest.mark.parametrize("raised", [unittest.SkipTest, NotApplicable])
def test_a_solver_that_says_of_each_check_that_it_does_not_apply_fails(raised: type) -> None:
    def solve(self: object, problem: object) -> Any:
        raise raised("nothing to see")

    code = types.FunctionType(
        solve.__code__, {"__name__": "of_mine"}, closure=solve.__closure__
    )  # of its module
    checked = failing("solvers", solve=code)
    assert checked.failed
    assert checked.counts()["failed"] >= len(checked.results) / 2
