"""otcache in a sampling loop of your own, around any nn.Module: no diffusers pipeline needed.

Run it: ``python examples/own_loop.py``.
"""

from __future__ import annotations

import torch
from torch import nn

import otcache

STEPS = 20


class Velocity(nn.Module):
    """A toy denoiser: the exact flow from noise to points on a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """v(x, s) of shape (n, 2)."""
        self.calls += 1
        clean: torch.Tensor = x / x.norm(dim=-1, keepdim=True)
        return (x - clean) / s


def main() -> None:
    """Calibrate the loop, plan, and run it with 6 of 20 evaluations."""
    denoiser = Velocity()
    grid = torch.linspace(1, 0, STEPS + 1)

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        """Euler from noise, one row per seed."""
        noise = [torch.randn(1, 2, generator=torch.Generator().manual_seed(s)) for s in seeds]
        x = torch.cat(noise)
        for i in range(num_steps):
            x = x + (grid[i + 1] - grid[i]) * denoiser(x, grid[i])
        return x

    # A loop with guidance calls its denoiser twice a step: say so with calls_per_step=2.
    loop = otcache.loop(sample, denoiser=denoiser, grid=grid.tolist(), calls_per_step=1)
    calibration = otcache.calibrate(loop, ["any"], STEPS, seeds=range(8), progress=False)
    policy = otcache.plan(calibration)
    full = loop(["any"], [100], STEPS)
    denoiser.calls = 0
    with otcache.accelerate(loop, policy.schedule(budget=6)) as run:
        fast = loop(["any"], [100], STEPS)
    print(f"calls {denoiser.calls} of {STEPS}, error {float((fast - full).norm()):.1e}")
    print(run.report)


if __name__ == "__main__":
    main()
