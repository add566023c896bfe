"""Data whose denoiser is known: a mixture of Gaussians, and a small network trained on it in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Of a vector, and of an image of one channel.
VECTOR, IMAGE = (32,), (1, 8, 8)
COMPONENTS = 24


class Mixture:
    """Posterior mean of x_0 ~ 1/K sum_k N(mu_k, w^2 I), given x = a x_0 + b n with n ~ N(0, I).

    ``E[x_0 | x] = m + a w^2 / c (x - a m)`` with ``c = a^2 w^2 + b^2`` and
    ``m = sum_k softmax_k(-|x - a mu_k|^2 / 2c) mu_k``.

    Args:
        means: mu_k, shape (K, *).
        width: w.
    """

    def __init__(self, means: Tensor, width: float) -> None:
        self.means, self.width = means.flatten(1), width

    def clean(self, x: Tensor, a: Tensor, b: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[x_0 | x] of each row; a and b are numbers or one per row.

        With ``labels``, the mixture of a row with label 0 or 1 is that half of the components.
        """
        y = x.flatten(1)
        a, b = (torch.as_tensor(v, dtype=y.dtype).reshape(-1, 1) for v in (a, b))
        variance = a**2 * self.width**2 + b**2
        distance = ((y[:, None] - a[..., None] * self.means) ** 2).sum(-1)
        logits = -distance / (2 * variance)
        if labels is not None:
            half = torch.arange(len(self.means)) * 2 // len(self.means)
            logits = logits.masked_fill(half != labels.reshape(-1, 1), -math.inf)
        mean = logits.softmax(-1) @ self.means
        return (mean + a * self.width**2 / variance * (y - a * mean)).reshape(x.shape)

    def noise(self, x: Tensor, a: Tensor, b: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[n | x] of each row."""
        a, b = (rows(torch.as_tensor(v, dtype=x.dtype), x) for v in (a, b))
        return (x - a * self.clean(x, a, b, labels)) / b

    def draw(self, count: int, seed: int) -> Tensor:
        """Return samples of x_0, shape (count, d)."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(len(self.means), (count,), generator=generator)
        spread = torch.randn(count, self.means.shape[1], generator=generator)
        return self.means[which] + self.width * spread


def rows(value: Tensor, x: Tensor) -> Tensor:
    """Return a number, or one per row, shaped to multiply x."""
    return value.reshape(-1, *(1,) * (x.ndim - 1))


def _vectors() -> Mixture:
    generator = torch.Generator().manual_seed(0)
    return Mixture(torch.randn(COMPONENTS, *VECTOR, generator=generator), 0.5)


def _images() -> Mixture:
    """Smooth images between -0.7 and 0.7: coarse noise, enlarged."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COMPONENTS, 1, 3, 3, generator=generator) * 2 - 1
    fine = nn.functional.interpolate(coarse, IMAGE[1:], mode="bilinear", align_corners=True)
    return Mixture(0.7 * fine, 0.08)


vectors, images = _vectors(), _images()


def gaussian(seeds: Sequence[int], shape: tuple[int, ...] = VECTOR) -> Tensor:
    """Noise with a generator of its own for every sample."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )


class Network(nn.Module):
    """v(x, t) of the straight path from noise (t = 0) to data (t = 1); t one per row."""

    def __init__(self) -> None:
        super().__init__()
        d = VECTOR[0]
        self.layers = nn.Sequential(
            nn.Linear(d + 2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, d)
        )

    def clean(self, x: Tensor, t: Tensor) -> Tensor:
        """x_0, shape (n, d)."""
        return self.layers(torch.cat([x, t, torch.cos(math.pi * t)], 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity, shape (n, d)."""
        t = t[:, None]
        return (self.clean(x, t) - x) / (1 - t).clamp(min=0.04)


def trained(steps: int = 1000) -> Network:
    """Return a network trained on the vectors, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network()
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            data = vectors.draw(256, step)
            noise, t = torch.randn_like(data), torch.rand(len(data), 1)
            loss = (network.clean(data * t + noise * (1 - t), t) - data).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    return network.eval().requires_grad_(False)
