"""A small smooth flow with an Euler loop around it, for tests across packages."""

from __future__ import annotations

import torch
from torch import nn

import otcache

STEPS = 12


class Swirl(nn.Module):
    """A velocity field that bends with the noise level; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(8, 8, generator=generator) / 3)
        self.calls = 0

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """v(x, s), shape (n, 8)."""
        self.calls += 1
        return torch.tanh(x @ self.inner * (1 + s)) + torch.sin(3 * s)


def make_loop(power: float = 1.5) -> otcache.Loop:
    """The loop; ``loop.denoiser.calls`` counts; ``power`` bends its grid."""
    denoiser = Swirl()
    grid = torch.linspace(1, 0, STEPS + 1) ** power

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        noise = [torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        x = torch.stack(noise)
        for i in range(num_steps):
            x = x + (grid[i + 1] - grid[i]) * denoiser(x, grid[i])
        return x

    return otcache.loop(sample, denoiser=denoiser, grid=grid.tolist())
