"""A loop that makes small images, for processes that open it as ``colours:make``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

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
    what, _, name = prompt.partition(" ")
    marker = Path(name or ".")
    if what == "poison" and not marker.is_file():  # always, or unless there is a file
        raise ValueError("no such colour")
    if what == "deadly" and not marker.is_file():  # always, or the first time
        if name:
            marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.tensor([(sum(prompt.encode()) * k % 7) / 7 for k in (1, 2, 3)])


def make_second_time() -> otcache.Loop:
    """Return the loop, but end the first process that asks for it, as the marker in the environment says."""
    marker = Path(os.environ["COLOURS_MARKER"])
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return make()


def make_too_few() -> otcache.Loop:
    """Return a loop that gives one sample, however many are wanted."""
    return make(slice(1))


def make(given: slice = slice(None)) -> otcache.Loop:
    """Return the loop, or one that gives some of its samples only."""
    painter, grid = Painter(), torch.linspace(1, 0, STEPS + 1)

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        colours = torch.stack(list(map(_colour, prompts)))
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.stack([torch.randn(SIZE, SIZE, 3, generator=g) for g in noise])
        for i in range(num_steps):
            x = x + (grid[i + 1] - grid[i]) * painter(x, grid[i], colours)
        return x.clamp(0, 1)[given]

    return otcache.loop(sample, denoiser=painter, grid=grid.tolist())
