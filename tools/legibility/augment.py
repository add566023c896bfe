"""Random distortions of a batch: place, colours, blur and noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

DEGREES, STRETCH, SHIFT = 5.0, 0.04, 0.06
"""Largest rotation, stretch along an axis, and shift as a share of half the picture."""
NOISE = 0.06


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Distort pictures (n, 3, 64, 64) in [0, 1], each in its own way, and stay in [0, 1]."""
    x = _place(pictures, generator)
    x = _colours(x, generator)
    x = torch.lerp(x, _blurred(x), _uniform(len(x), 0.0, 1.0, generator))
    noise = torch.randn(x.shape, generator=generator)
    return (x + _uniform(len(x), 0.0, NOISE, generator) * noise).clamp(0.0, 1.0)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def _place(x: Tensor, generator: torch.Generator) -> Tensor:
    angle = math.radians(DEGREES) * (2 * torch.rand(len(x), generator=generator) - 1)
    stretch = 1 + STRETCH * (2 * torch.rand(len(x), 2, generator=generator) - 1)
    shift = SHIFT * (2 * torch.rand(len(x), 2, generator=generator) - 1)
    turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), dim=1)
    theta = torch.cat((turn.view(-1, 2, 2) * stretch[:, :, None], shift[:, :, None]), dim=2)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


def _colours(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mix up channels, invert half of the pictures, and pull contrast and brightness."""
    order = torch.rand(len(x), 3, generator=generator).argsort(dim=1)
    x = x.gather(1, order[:, :, None, None].expand_as(x))
    x = torch.where(_uniform(len(x), 0.0, 1.0, generator) < 0.5, x, 1.0 - x)
    contrast = _uniform(len(x), 0.7, 1.0, generator)
    return contrast * x + (1.0 - contrast) * _uniform(len(x), 0.0, 1.0, generator)


def _blurred(x: Tensor) -> Tensor:
    for _ in range(2):
        x = avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return x
