"""A budget alone: accelerated at the first call, in every way there is to run, without a calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import otcache
from otcache.cli.app import app
from otcache.media import run_once
from otcache_core.errors import OtcacheNotice
from otcache_core.uncalibrated import default_schedule

N = 8


class Turning(torch.nn.Module):
    """A velocity that turns slowly; samples differ in how."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        rates = torch.arange(1.0, 1.0 + len(x)).reshape(-1, 1)
        return torch.cos(rates * s) * x


def grid(num_steps: int) -> list[float]:
    return torch.linspace(1, 0, num_steps + 1).tolist()


def sampler(net: Turning, num_steps: int = N) -> torch.Tensor:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor(grid(num_steps))
    for i in range(num_steps):
        x = x + (levels[i + 1] - levels[i]) * net(x, levels[i])
    return x


def looped(net: Turning) -> otcache.Loop:
    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        return sampler(net, num_steps)

    return otcache.loop(sample, denoiser=net, grid=grid)


def test_a_module_whose_grid_is_given() -> None:
    net = Turning()
    full = sampler(net)
    net.calls = 0
    with otcache.accelerate(net, budget=4, grid=grid(N)) as run:
        fast = sampler(net)
    assert net.calls == 4
    assert run.report.planned == default_schedule(N, 4, grid(N)).computed
    assert (fast - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("num_steps", [5, 8, 12])
def test_a_loop_of_any_number_of_steps(num_steps: int) -> None:
    net = Turning()
    loop = looped(net)
    with otcache.accelerate(loop, budget=4) as run:
        loop(["any"], [0], num_steps)
    assert net.calls == 4
    assert run.report.planned == default_schedule(num_steps, 4, grid(num_steps)).computed
    assert run.report.warnings == []


def test_fewer_steps_than_the_budget_are_computed_and_said() -> None:
    net = Turning()
    loop = looped(net)
    refused = pytest.warns(OtcacheNotice, match=r"budget must be .*3, got 4")
    with refused, otcache.accelerate(loop, budget=4):
        loop(["any"], [0], 3)
    assert net.calls == 3


def test_a_server_asks_for_budgets_without_a_policy() -> None:
    net = Turning()
    loop = looped(net)
    handle = otcache.enable(loop, budget=5)
    calls = []
    for budget in (3, None, 6):
        net.calls = 0
        if budget is None:
            loop(["any"], [0], N)
        else:
            with handle.request(budget):
                loop(["any"], [0], N)
        calls.append(net.calls)
    handle.remove()
    assert calls == [3, 5, 6]
    assert otcache.enabled(loop) is None


@pytest.mark.parametrize("budget", [0, -1, 2.5, "ten"])
def test_a_bad_budget_is_refused_before_any_run(budget: Any) -> None:
    with pytest.raises(otcache.OtcacheError, match="budget"):
        otcache.accelerate(Turning(), budget=budget, grid=grid(N))
    with pytest.raises(otcache.OtcacheError, match="budget"):
        otcache.enable(looped(Turning()), budget=budget)


@pytest.mark.remedy("is needed, got none: give budget=10, or another one.")
def test_a_call_without_any_plan_is_refused() -> None:
    with pytest.raises(otcache.OtcacheError, match="a budget, a policy or a schedule is needed"):
        otcache.accelerate(looped(Turning()))
    otcache.accelerate(looped(Turning()), budget=10)


@pytest.mark.remedy("give accelerate(..., grid=[s_0, ..., s_N]), or ")
@pytest.mark.remedy("accelerate otcache.loop(...) around it.")
def test_a_module_alone_does_not_say_how_many_steps_there_are() -> None:
    net = Turning()
    with pytest.raises(otcache.OtcacheError, match="Turning alone does not say how many steps"):
        otcache.accelerate(net, budget=4)
    otcache.accelerate(net, budget=4, grid=grid(N))
    otcache.accelerate(looped(net), budget=4)
    with pytest.raises(otcache.OtcacheError, match=r"grid must be the values s_0 \.\. s_N"):
        otcache.accelerate(Turning(), budget=4, grid=grid)


def test_the_readme_accelerates_a_demo_in_three_lines() -> None:
    pipe, call = otcache.load_demo("image")
    with otcache.accelerate(pipe, budget=2) as run:
        image = pipe("the digit 7", num_inference_steps=4, **call).images[0]
    assert image.size == (64, 64)
    assert run.report.computed == {"cond": 2, "uncond": 2}
    assert run.report.skipped == {"cond": 2, "uncond": 2}


@pytest.mark.remedy("give it, on the command line by --steps.")
def test_a_loop_has_no_usual_number_of_steps() -> None:
    loop = looped(Turning())
    with pytest.raises(otcache.OtcacheError, match="Loop has no usual number of steps"):
        run_once(loop, None, 3, "any")
    assert run_once(loop, None, 3, "any", num_steps=N).report.computed == {"call": 3}


def test_the_command_line_needs_no_policy(tmp_path: Path) -> None:
    words = ["run", "demo", "--budget", "2", "--steps", "4", "--prompt", "the digit 7", "--json"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "seven.png")])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["computed"] == {"cond": 2, "uncond": 2}
    assert (tmp_path / "seven.png").stat().st_size > 100
