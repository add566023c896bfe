"""What the program samples with; any loop of one's own would do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import otcache

Array = NDArray[np.float64]
STEPS = 20
#: s_0 .. s_N; steps are longer at first.
GRID: Array = np.linspace(1.0, 0.0, STEPS + 1) ** 1.5


def velocity(x: Array, s: float) -> Array:
    """v(x, s) of shape (n, 2): the exact flow from noise to points on two circles."""
    radius = np.linalg.norm(x, axis=-1, keepdims=True)
    clean = x / radius * (1.5 + 0.5 * np.tanh(8 * (radius - 1.2)))
    return np.asarray((x - clean) / s)


def noise(seeds: Sequence[int]) -> Array:
    """x_0, one row per seed."""
    return np.stack([np.random.default_rng(seed).standard_normal(2) for seed in seeds])


class Net(nn.Module):
    """The same, for torch."""

    def forward(self, x: torch.Tensor, s: float) -> torch.Tensor:
        """v(x, s)."""
        return torch.from_numpy(velocity(x.numpy(), s))


def make_loop() -> otcache.Loop:
    """Return a pipeline: each call makes another, with a denoiser of its own."""
    net = Net()

    def sample(prompts: Sequence[str], seeds: Sequence[int], num_steps: int) -> torch.Tensor:
        x = torch.from_numpy(noise(seeds))
        for i in range(num_steps):
            x = x + float(GRID[i + 1] - GRID[i]) * net(x, float(GRID[i]))
        return x

    return otcache.loop(sample, denoiser=net, grid=GRID.tolist())
