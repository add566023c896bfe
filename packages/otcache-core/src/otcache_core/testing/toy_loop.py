"""A loop around a toy denoiser, as a target for probes, executors and baselines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otcache_core.loop import Loop
from otcache_core.testing.toy import ToySampler

Floats = NDArray[np.float64]


class ToyDenoiser:
    """The velocity of a :class:`~otcache_core.testing.ToySampler`, with a method to replace, as a module's.

    Args:
        sampler: whose velocity it is.

    Attributes:
        worked: how often the velocity was computed.
    """

    def __init__(self, sampler: ToySampler) -> None:
        self.sampler = sampler
        self.worked = 0

    def __call__(self, x: Floats, s: float) -> Floats:
        """Return v(x, s), shape (samples, d), or what ``forward`` was replaced by."""
        return self.forward(x, s)

    def forward(self, x: Floats, s: float) -> Floats:
        """Compute v(x, s) row by row, shape (samples, d)."""
        self.worked += 1
        return self.sampler.velocity(x, s)


def toy_loop(sampler: ToySampler | None = None) -> Loop:
    """Return a fresh loop of Euler steps on an even grid; two of them share nothing and sample the same.

    It is called as ``loop(prompts, seeds, num_steps)``, takes x_0 from the seeds, ignores the prompts and
    returns x_N, shape (samples, d). With ``stop=i`` it raises InterruptedError before step i.

    Args:
        sampler: whose velocity its denoiser computes.
    """
    denoiser = ToyDenoiser(sampler or ToySampler())

    def sample(
        prompts: Sequence[str], seeds: Sequence[int], num_steps: int, stop: int | None = None
    ) -> Floats:
        dim = denoiser.sampler.dim
        x = np.stack([np.random.default_rng(seed).standard_normal(dim) for seed in seeds])
        for step, (s, after) in enumerate(itertools.pairwise(even_grid(num_steps))):
            if step == stop:
                raise InterruptedError
            x = x + (after - s) * made.denoiser(x, s)
        return x

    made = Loop(sample, denoiser, lambda num_steps: even_grid(num_steps).tolist())
    return made


def even_grid(num_steps: int) -> Floats:
    """Return s_0 .. s_N from 1 down to 0, shape (N + 1,)."""
    return np.linspace(1.0, 0.0, num_steps + 1)
