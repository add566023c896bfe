"""Calibrating what has few steps: measured, not guessed, whether any budget is worthwhile."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import otcache

RECIPE = otcache.Recipe(anchor_trials=3, climb_trials=2, cost_samples=2)


class Jumps(nn.Module):
    """Every step goes its own way, as in a distilled model; or all go the same way."""

    def __init__(self, num_steps: int, alike: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(num_steps, 8, 8, generator=generator)
        self.weights = nn.Parameter(weights[:1].expand_as(weights).clone() if alike else weights)

    def forward(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """v, shape (n, 8); along a straight line where all steps are alike."""
        start = torch.ones(8) if torch.equal(self.weights[0], self.weights[-1]) else x
        return torch.tanh(start @ self.weights[step]).expand_as(x).clone()


def _loop(num_steps: int, alike: bool) -> otcache.Loop:
    denoiser = Jumps(num_steps, alike)

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        noise = [torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        x = torch.stack(noise)
        for step in range(num_steps):
            x = x - denoiser(x, step) / num_steps
        return x

    grid = [1 - i / num_steps for i in range(num_steps + 1)]
    return otcache.loop(sample, denoiser=denoiser, grid=grid)


@pytest.mark.parametrize("num_steps", [4, 8])
def test_steps_of_their_own_are_all_computed(num_steps: int) -> None:
    with pytest.raises(otcache.OtcacheError, match=f"no worthwhile budget for {num_steps} steps"):
        otcache.plan(_calibrated(num_steps, alike=False))


def test_few_steps_that_are_alike_are_skipped_all_the_same() -> None:
    policy = otcache.plan(_calibrated(4, alike=True))
    assert policy.schedule(2).budget == 2


def _calibrated(num_steps: int, *, alike: bool) -> otcache.Calibration:
    loop = _loop(num_steps, alike)
    return otcache.calibrate(loop, ["a"], num_steps, seeds=[0, 1, 2], recipe=RECIPE, progress=False)
