"""A loop that makes small images, for workers that open it as ``ray_painter:make``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn

import otcache

STEPS, SIZE = 6, 4


class Painter(nn.Module):
    """A field that pulls noise to the colour of a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.pull = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: torch.Tensor, s: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
        """v(x, s), shape (n, SIZE, SIZE, 3)."""
        return self.pull * (x - colour[:, None, None]) * (1 + s)


def _colour(prompt: str) -> torch.Tensor:
    what, _, marker = prompt.partition(" ")
    if what == "poison":
        raise ValueError("no such colour")
    if what == "deadly" and not Path(marker).is_file():  # the first time
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.tensor([(sum(what.encode()) * k % 7) / 7 for k in (1, 2, 3)])


def make() -> Any:
    """Return the loop."""
    painter, grid = Painter(), torch.linspace(1, 0, STEPS + 1)

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        colours = torch.stack(list(map(_colour, prompts)))
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.stack([torch.randn(SIZE, SIZE, 3, generator=g) for g in noise])
        for i in range(num_steps):
            x = x + (grid[i + 1] - grid[i]) * painter(x, grid[i], colours)
        return x.clamp(0, 1)

    return otcache.loop(sample, denoiser=painter, grid=grid.tolist())
