"""From a calibration to a target: errors by every metric, asked of a policy, a server and a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy import STEPS, make_loop
from typer.testing import CliRunner

import otcache
from otcache.cli.app import app
from otcache.cli.measure import budget_of
from otcache_core import OtcacheError, Policy, Provenance, Schedule
from otcache_core.targets import Measured

PROMPTS = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def calibration() -> otcache.Calibration:
    return otcache.calibrate(make_loop(), PROMPTS, STEPS, progress=False)


def with_lpips(lpips: dict[int, float]) -> Policy:
    """Return a policy of the toy that measured these errors."""
    ladder = tuple(Schedule(STEPS, tuple(range(b))) for b in lpips)
    measured = tuple(Measured.of(b, {"lpips": [e] * 4}) for b, e in lpips.items())
    return Policy(ladder[0], ladder[-1], Provenance(num_steps=STEPS), ladder, measured=measured)


def test_each_rung_has_the_errors_of_its_schedule_by_every_metric(
    calibration: otcache.Calibration,
) -> None:
    """Those by the fidelity are the ones that chose it, and a policy keeps them all."""
    for rung in calibration.ladder:
        assert set(rung.errors) == {"latent-rmse", "latent-l1"}
        if len(rung.errors[calibration.fidelity]) == len(PROMPTS):
            found = np.array(rung.errors[calibration.fidelity], dtype=float)
            assert np.exp(np.log(np.maximum(found, 1e-12)).mean()) == pytest.approx(rung.error)
    policy = otcache.plan(calibration)
    errors = {one.budget: one.errors for one in policy.measured}
    assert errors == {
        r.schedule.budget: r.errors for r in calibration.ladder if r.schedule.budget in errors
    }
    assert len(errors) > 5


def test_calibrations_and_policies_keep_errors(
    calibration: otcache.Calibration, tmp_path: Path
) -> None:
    calibration.save(tmp_path)
    policy = otcache.plan(otcache.Calibration.load(tmp_path))
    policy.save(tmp_path / "p.otcache")
    assert otcache.load_policy(tmp_path / "p.otcache") == otcache.plan(calibration)


def test_a_target_is_met_by_the_least_budget(calibration: otcache.Calibration) -> None:
    policy = otcache.plan(calibration)
    for limit in (0.3, 0.03, 0.003):
        budget = policy.for_error("latent-rmse", limit, quantile=0.5)
        frontier = policy.frontier("latent-rmse", 0.5)
        assert frontier.error(budget) <= limit * (1 + 1e-6)
        assert budget == 1 or frontier.error(budget - 1) > limit


def test_a_report_has_what_the_policy_expects_of_its_budget(
    calibration: otcache.Calibration,
) -> None:
    policy, loop = otcache.plan(calibration), make_loop()
    with otcache.accelerate(loop, policy, budget=4) as run:
        loop(["any"], [0], STEPS)
    assert run.report.expected == policy.expected(4) != {}
    with otcache.accelerate(loop, budget=4) as run:
        loop(["any"], [0], STEPS)
    assert run.report.expected == {}
    handle = otcache.enable(loop, policy, budget=5)
    with handle.request(3) as asked:
        loop(["any"], [0], STEPS)
    assert asked.report.expected == policy.expected(3)
    assert handle.run is not None
    assert handle.run.report.expected == policy.expected(5)
    handle.remove()


@pytest.mark.remedy("a request has a budget or a quality, got {}: give one of them")
@pytest.mark.remedy("needs a policy, got none: give one, or a budget")
def test_a_request_may_ask_for_a_quality() -> None:
    loop, calls = make_loop(), []
    handle = otcache.enable(loop, with_lpips({3: 0.2, 4: 0.04, 6: 0.005}))
    for asked in ({"quality": "high"}, {"quality": "lossless"}, {"quality": "fast"}, {"budget": 5}):
        loop.denoiser.calls = 0
        with handle.request(**asked):
            loop(["any"], [0], STEPS)
        calls.append(loop.denoiser.calls)
    assert calls == [4, 6, 3, 5]
    for both in ({}, {"budget": 4, "quality": "high"}):
        with pytest.raises(OtcacheError, match=r"a budget or a quality, got (none|both)"):
            handle.request(**both)
    handle.remove()
    handle = otcache.enable(loop)
    with pytest.raises(OtcacheError, match="quality 'high' needs a policy, got none"):
        handle.request(quality="high")
    with handle.request(budget=4):
        loop(["any"], [0], STEPS)
    handle.remove()


@pytest.mark.remedy("give one of --budget, --target and --quality, got {}")
@pytest.mark.remedy("{} asks a policy: give --policy too, or --budget")
@pytest.mark.remedy("which were calibrated, got --steps {}: omit --steps, or give --budget.")
def test_the_command_line_takes_a_budget_a_target_or_a_quality() -> None:
    policy = with_lpips({3: 0.2, 4: 0.04, 6: 0.005})
    assert budget_of(None, "5", None, None) == 5
    assert budget_of(policy, None, "lpips=0.05", None) == 4
    assert budget_of(policy, None, "speedup=4", None) == 3
    assert budget_of(policy, None, None, "lossless") == 6
    for given in ((None, None, None), ("5", "speedup=4", None), ("5", None, "high")):
        with pytest.raises(OtcacheError, match="give one of --budget, --target and --quality"):
            budget_of(policy, *given)
    with pytest.raises(OtcacheError, match="--quality asks a policy"):
        budget_of(None, None, None, "high")
    with pytest.raises(OtcacheError, match=r"--quality is of runs of 12 steps, .* got --steps 20"):
        budget_of(policy, None, None, "high", 20)
    assert budget_of(policy, None, None, "high", STEPS) == 4
    for wrong in ("lpips", "lpips=", "lpips=a", "lpips=1,2", "=", ""):
        with pytest.raises(OtcacheError, match="--target must be"):
            budget_of(policy, None, wrong, None)


def test_inspect_draws_errors_against_budgets(
    calibration: otcache.Calibration, tmp_path: Path
) -> None:
    calibration.save(tmp_path)
    otcache.plan(calibration).save(tmp_path / "p.otcache")
    for name in (tmp_path, tmp_path / "p.otcache"):
        shown = CliRunner().invoke(app, ["inspect", str(name)], env={"COLUMNS": "100"}).output
        (title,) = (line for line in shown.splitlines() if "3 of 4, ─ all" in line)
        assert title.startswith(("latent-rmse on 8 samples", "latent-l1 on 8"))
        assert sum("●" in line for line in shown.splitlines()) > 5


def test_a_run_by_target_makes_its_image(tmp_path: Path) -> None:
    pipe, call = otcache.load_demo("image")
    prompts = ["a small pink heart on an orange background", "the digit 7"]
    made = otcache.calibrate(pipe, prompts, 9, effort="quick", budgets=[4], progress=False, **call)
    assert {"lpips", "rmse"} <= set(made.ladder[0].errors)
    assert torch.isfinite(torch.tensor(made.ladder[0].errors["lpips"])).all()
    otcache.plan(made).save(tmp_path / "p.otcache")
    words = ["run", "demo", "--policy", str(tmp_path / "p.otcache"), "--target", "speedup=2"]
    words += ["--prompt", "the digit 7", "--out", str(tmp_path / "seven.png"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert '"expected"' in result.stdout
    assert Image.open(tmp_path / "seven.png").size == (64, 64)
