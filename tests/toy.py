"""A small smooth flow with an Euler loop around it, for tests across packages."""

from __future__ import annotations

import math

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


def make_loop(
    power: float = 1.5, *, two_step: bool = False, noise: float = 0.0, limit: float = math.inf
) -> otcache.Loop:
    """Return the loop; ``loop.denoiser.calls`` counts; ``power`` bends its grid.

    Euler steps, or two-step Adams-Bashforth ones; ``noise`` is added at every step, and states are
    clipped to ``limit``.
    """
    denoiser = Swirl()
    grid = torch.linspace(1, 0, STEPS + 1) ** power

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        x = torch.stack([torch.randn(8, generator=g) for g in generators])
        h, older = grid.diff(), None
        for i in range(num_steps):
            v = denoiser(x, grid[i])
            bend = h[i] / h[i - 1] / 2 if two_step and older is not None else 0.0
            x = x + h[i] * (v if older is None else v + bend * (v - older))
            x = x + noise * torch.stack([torch.randn(8, generator=g) for g in generators])
            x, older = x.clamp(-limit, limit), v
        return x

    return otcache.loop(sample, denoiser=denoiser, grid=grid.tolist())
