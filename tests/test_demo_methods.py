"""What the demo's table always shows beside otcache."""

from __future__ import annotations

from pathlib import Path

from toy import STEPS, make_loop

from otcache.demo.preset import BASELINES, DemoSettings, _baselines
from otcache_core import Provenance, Schedule
from otcache_core.contracts import BaselineSetting, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.policy import Policy

BUDGETS = (3, 4)
SETTINGS = DemoSettings(baselines=tuple(BASELINES), lemica_prompts=1)


def test_fewer_steps_and_the_two_step_rule_are_in_every_table(tmp_path: Path) -> None:
    """Without these rows any cache looks good: just taking fewer steps is a competitor."""
    policy = Policy(Schedule(STEPS, (0, 3)), Schedule(STEPS, (0, 2, 4, 6, 9)), Provenance(STEPS))
    policy.save(tmp_path / "p.otcache")
    loop, request = make_loop(), SampleRequest(("a", "b"), (0, 0), STEPS, {})
    rows: dict[str, list[BaselineSetting]] = {}
    for name, baseline in _baselines(SETTINGS, tmp_path / "p.otcache", Registry()).items():
        if not baseline.supports(loop, request):
            measured = baseline.calibrate(loop, request, BUDGETS)
            rows[name] = list(baseline.settings(STEPS, BUDGETS, measured))
    names = ("uniform", "fewer steps", "LeMiCa rule", "MeanCache rule", "Adams-Bashforth")
    rules = ("Spectrum", "HiCache", "HiCache++", "L2P", "otcache, no calibration")
    assert tuple(rows) == (*names, *rules, "otcache")
    for place, budget in enumerate(BUDGETS):
        found = {name: settings[place] for name, settings in rows.items()}
        assert found["fewer steps"].num_steps == budget
        assert {len(setting.computed or ()) for setting in found.values()} == {budget}
        assert found["Adams-Bashforth"].computed == found["uniform"].computed
        schedules = {n: s.values["schedule"] for n, s in found.items() if "schedule" in s.values}
        forecasters = {name: schedule["forecaster"] for name, schedule in schedules.items()}
        assert forecasters["Adams-Bashforth"] == "linear"
        assert (forecasters["HiCache"], forecasters["L2P"]) == ("hermite", "l2p")
        assert forecasters["Spectrum"].startswith("spectrum")
        assert forecasters["MeanCache rule"] == "mean-velocity"
        assert forecasters["LeMiCa rule"] == forecasters["uniform"] == "reuse"


def test_every_baseline_is_one_of_a_comparison() -> None:
    registry = Registry()
    assert {registry.resolve("baselines", name) for name in BASELINES.values()} <= {
        offer.qualified_name for offer in registry.known("baselines")
    }
    images = DemoSettings().baselines
    assert set(BASELINES) - set(images) == {"fewer steps, AB2"}
