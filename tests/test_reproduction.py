"""What is measured is what was recorded: samples that depend on the batch, and samplers of 2n - 1 calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy import Swirl

import otcache

STEPS = 8
FEW = {"ladder": (3, 5), "anchor_trials": 1, "climb_trials": 0, "cost_samples": 1}
RECIPE = otcache.Recipe(**FEW)
GRID = torch.linspace(1, 0.02, STEPS + 1) ** 2


def _noise(seeds: Any) -> torch.Tensor:
    return torch.cat([torch.randn(1, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])


def _calibrated(loop: otcache.Loop, **kwargs: Any) -> otcache.Calibration:
    kwargs.setdefault("recipe", RECIPE)
    return otcache.calibrate(loop, ["any"], STEPS, seeds=range(4), progress=False, **kwargs)


def _noisy(net: nn.Module, unseeded: torch.Generator | None = None) -> Callable[..., torch.Tensor]:
    """Noise of the whole batch, seeded by the first sample's seed or by none."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        generator = unseeded or torch.Generator().manual_seed(seeds[0])
        x = torch.randn(len(seeds), 8, generator=generator)
        for s, after in pairwise(GRID):
            x = x + (after - s) * net(x, s)
            x = x + 0.05 * torch.randn(len(seeds), 8, generator=generator)
        return x

    return sample


def _interleaved(net: nn.Module) -> Callable[..., torch.Tensor]:
    """Guidance by a doubled batch in which the rows of a sample are together."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x = _noise(seeds)
        for s, after in pairwise(GRID):
            scale = torch.tensor([1.0, 0.8]).repeat(len(x))[:, None]
            cond, uncond = (net(x.repeat_interleave(2, 0) * scale, s)).view(-1, 2, 8).unbind(1)
            x = x + (after - s) * (uncond + 2 * (cond - uncond))
        return x

    return sample


@pytest.mark.parametrize("make", [_noisy, _interleaved])
def test_samples_that_depend_on_the_batch_are_measured_one_a_call(
    make: Any, tmp_path: Path
) -> None:
    net = Swirl()
    loop = otcache.loop(make(net), denoiser=net, grid=GRID.tolist())
    with pytest.warns(otcache.OtcacheNotice, match="what is beside it in the batch"):
        found = _calibrated(loop, directory=tmp_path)
    alone = _calibrated(loop, recipe=otcache.Recipe(**FEW, batch_size=1))
    assert found.ladder == alone.ladder
    assert found.nfe["record"] == 2 * alone.nfe["record"]
    calls = net.calls
    again = _calibrated(loop, directory=tmp_path)
    assert (again.ladder, net.calls) == (found.ladder, calls)


@pytest.mark.remedy(
    "Every sample is measured in a call of its own. Seed each sample's noise by its own seed"
)
@pytest.mark.remedy("Draw all noise from a torch.Generator that is seeded by the sample's own seed")
def test_noise_that_no_seed_fixes_is_refused() -> None:
    net = Swirl()
    sample = _noisy(net, torch.Generator().manual_seed(0))
    loop = otcache.loop(sample, denoiser=net, grid=GRID.tolist())
    with (
        pytest.warns(otcache.OtcacheNotice, match="beside it in the batch"),
        pytest.raises(otcache.OtcacheError, match=r"no seed fixes\. Draw all noise from a torch"),
    ):
        _calibrated(loop)
    loop = otcache.loop(_seeded(net), denoiser=net, grid=GRID.tolist())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "a sample depends on what is beside it")
        _calibrated(loop)


def _seeded(net: nn.Module) -> Callable[..., torch.Tensor]:
    """As _noisy, with noise of each sample's own seed."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> torch.Tensor:
            return torch.cat([torch.randn(1, 8, generator=g) for g in generators])

        x = noise()
        for s, after in pairwise(GRID):
            x = x + (after - s) * net(x, s) + 0.05 * noise()
        return x

    return sample


def _heun(net: nn.Module) -> Callable[..., torch.Tensor]:
    """Heun's method as k-diffusion has it: the last step is Euler's."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x, grid = _noise(seeds), torch.linspace(1, 0, num_steps + 1)
        for s, after in pairwise(grid):
            slope = net(x, s)
            if after > 0:
                slope = (slope + net(x + (after - s) * slope, after)) / 2
            x = x + (after - s) * slope
        return x

    return sample


def test_heun_s_2n_1_calls_are_counted_by_a_function() -> None:
    net = Swirl()
    loop = otcache.loop(_heun(net), denoiser=net, num_steps=lambda n: 2 * n - 1)
    calibration = _calibrated(loop)
    assert calibration.num_steps == 2 * STEPS - 1
    schedule = otcache.plan(calibration).schedule(budget=5)
    full, before = loop(["any"], [9], STEPS), net.calls
    with otcache.accelerate(loop, schedule):
        fast = loop(["any"], [9], STEPS)
    assert net.calls == before + 5
    uniform = otcache.Schedule(2 * STEPS - 1, tuple(i * (2 * STEPS - 1) // 5 for i in range(5)))
    with otcache.accelerate(loop, uniform):
        reused = loop(["any"], [9], STEPS)
    assert (fast - full).norm() < 0.5 * (reused - full).norm()


def test_too_many_calls_name_what_may_be_wrong() -> None:
    net = Swirl()
    loop = otcache.loop(_heun(net), denoiser=net)
    with pytest.raises(otcache.OtcacheError, match=r"2 \* n - 1 .* dpm_adaptive"):
        _calibrated(loop)


class Clean(nn.Module):
    """Predicts x_0 from x + sigma noise."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(3 * x / (1 + sigma**2))


def _lms(net: nn.Module) -> Callable[..., torch.Tensor]:
    """Linear multistep of order 4 on a grid of Karras et al. down to 0.005, as in k-diffusion."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        ends = torch.tensor([10.0, 0.005]).double() ** (1 / 7)
        sigmas = (ends[0] + torch.linspace(0, 1, num_steps).double() * (ends[1] - ends[0])) ** 7
        s = torch.cat([sigmas, torch.zeros(1)]).numpy()
        x, slopes = 10 * _noise(seeds), []
        for i in range(num_steps):
            slopes = [(x - net(x, torch.tensor(s[i]).float())) / float(s[i]), *slopes[:3]]
            nodes = s[i - len(slopes) + 1 : i + 1][::-1]
            weights = [_integral(nodes, q, s[i], s[i + 1]) for q in range(len(slopes))]
            x = x + sum(w * d for w, d in zip(weights, slopes, strict=True))
        return x

    return sample


def _integral(nodes: Any, q: int, low: float, high: float) -> float:
    others = np.delete(nodes, q)
    basis = np.poly1d(others, r=True) / np.prod(nodes[q] - others)
    return float(np.polyint(basis)(high) - np.polyint(basis)(low))


def test_rounding_at_small_noise_levels_is_not_taken_for_noise() -> None:
    net = Clean()
    with warnings.catch_warnings():
        warnings.simplefilter("error", otcache.OtcacheNotice)  # none says that nothing is fitted
        calibration = _calibrated(otcache.loop(_lms(net), denoiser=net))
    assert "fitted" in {rung.schedule.forecaster for rung in calibration.ladder}
