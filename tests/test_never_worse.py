"""At every budget otcache is no worse than uniform reuse: a thin slice of benchmarks/never_worse.py."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy import STEPS, make_loop

import otcache
from otcache.calibration.contest import screening_samples
from otcache.calibration.gaps import BETWEEN
from otcache.planning import doubtful
from otcache.report.statistics import mean_interval
from otcache_core.errors import OtcacheNotice
from otcache_core.transport import uniform_steps

RECIPE = otcache.Recipe(anchor_trials=4, climb_trials=2, cost_samples=2)
HELD_OUT = list(range(100, 132))


class Rough(nn.Module):
    """A field that turns faster than its steps, so that forecasts of it are wrong: reuse is best."""

    def __init__(self, pace: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.pace = pace

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """v(x, s), shape (n, 8)."""
        return torch.sin(self.pace * x @ self.inner) + x * torch.sin(3 * s)


def _rough(pace: float) -> otcache.Loop:
    denoiser, grid = Rough(pace), torch.linspace(1, 0, STEPS + 1)

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        x = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in seeds])
        for i in range(num_steps):
            x = x + (grid[i + 1] - grid[i]) * denoiser(x, grid[i])
        return x

    return otcache.loop(sample, denoiser=denoiser, grid=grid.tolist())


LOOPS = {
    "smooth": make_loop,
    "rough": lambda: _rough(4.0),
    "two-step": lambda: make_loop(two_step=True),
    "noisy": lambda: make_loop(noise=0.3),
}


@pytest.mark.parametrize(
    ("name", "samples"), [("smooth", 2), ("rough", 4), ("two-step", 1), ("noisy", 4)]
)
def test_no_budget_is_worse_than_uniform_reuse(name: str, samples: int) -> None:
    loop = LOOPS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtcacheNotice)
        made = otcache.calibrate(
            loop, ["a"], STEPS, list(range(samples)), recipe=RECIPE, progress=False
        )
    policy = otcache.plan(made)
    full = loop(["held out"] * len(HELD_OUT), HELD_OUT, STEPS)

    def errors(schedule: otcache.Schedule) -> np.ndarray:
        with otcache.accelerate(loop, schedule):
            ours = loop(["held out"] * len(HELD_OUT), HELD_OUT, STEPS)
        return (ours - full).detach().square().mean(1).sqrt().clamp_min(1e-9).numpy()

    for budget in range(2, STEPS):
        uniform = otcache.Schedule(STEPS, uniform_steps(STEPS, budget))
        ratio = np.log(errors(policy.schedule(budget)) / errors(uniform))
        assert mean_interval(ratio).low <= 0, budget
    assert made.nfe["candidates"] <= 2.5 * STEPS * samples


def test_doubtful_budgets_between_rungs_are_measured() -> None:
    loop = _rough(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtcacheNotice)
        made = otcache.calibrate(
            loop, ["a"], STEPS, range(4), recipe=replace(RECIPE, ladder=(3, 9)), progress=False
        )
        none = otcache.calibrate(
            loop,
            ["a"],
            STEPS,
            range(4),
            recipe=replace(RECIPE, ladder=(3, 9), gap_runs=0),
            progress=False,
        )
    more = {r.schedule.budget for r in made.ladder} - {r.schedule.budget for r in none.ladder}
    assert more
    assert 0 < made.nfe["gaps"] <= 4 * STEPS * 4
    assert none.nfe["gaps"] == 0
    for rung in made.ladder:
        if rung.schedule.budget in more:
            assert rung.winner in ("between rungs", "uniform, reuse")
            assert rung.error <= rung.candidates["uniform, reuse"].error
    # What could not be measured is uniform reuse.
    left = set(doubtful(none))
    assert more <= left
    for budget in left:
        uniform = otcache.Schedule(STEPS, uniform_steps(STEPS, budget))
        assert otcache.plan(none).schedule(budget) == uniform


def test_budgets_between_rungs_are_measured_while_the_allowance_lasts() -> None:
    before: set[int] = set()
    for gap_runs in (0.0, 1.0, 1000.0):
        recipe = replace(RECIPE, ladder=(3, 9), gap_runs=gap_runs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OtcacheNotice)
            made = otcache.calibrate(
                LOOPS["smooth"](), ["a"], STEPS, range(4), recipe=recipe, progress=False
            )
        assert made.nfe["gaps"] <= gap_runs * STEPS * 4
        for rung in made.ladder:
            if rung.winner == BETWEEN:
                assert rung.candidates["uniform, reuse"].samples in (len(screening_samples(4)), 4)
                assert all(len(values) == 4 for values in rung.errors.values())
        measured = {rung.schedule.budget for rung in made.ladder}
        assert before < measured
        before = measured
    assert before == set(range(2, STEPS))
