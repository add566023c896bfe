"""Toy loops on which probes, executors and baselines are checked: of arrays, or of tensors."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from otcache_core.loop import Loop
from otcache_core.testing import ToySampler, toy_loop
from otcache_core.testing.toy import even_grid


def target_for(plugin: type) -> Callable[[], Loop]:
    """Return what makes toy loops for a class: of tensors where its package has imported torch.

    The facade's own baselines run by the installed executors, and ours takes tensors.
    """
    package = plugin.__module__.partition(".")[0]
    ours = package == __name__.partition(".")[0]
    if ours:
        with suppress(ImportError):
            importlib.import_module("torch")
    torch = sys.modules.get("torch")
    own = [module for name, module in sys.modules.items() if name.partition(".")[0] == package]
    if torch is not None and (ours or any(getattr(m, "torch", None) is torch for m in own)):
        return lambda: tensor_loop(torch)
    return toy_loop


def tensor_loop(torch: Any) -> Loop:
    """Return a fresh loop as :func:`~otcache_core.testing.toy` makes it, around a torch module.

    Args:
        torch: the library, which this package does not import itself.
    """
    sampler = ToySampler()

    class Denoiser(torch.nn.Module):  # type: ignore[misc]  # of a library that is not imported here
        """Computes the velocity of the toy sampler, and counts."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.worked = 0

        def forward(self, x: Any, s: float) -> Any:
            """Return v(x, s), shape (samples, d)."""
            self.worked += 1
            return torch.from_numpy(sampler.velocity(x.numpy(), s)).to(x.dtype)

    denoiser = Denoiser()

    def sample(
        prompts: Sequence[str], seeds: Sequence[int], num_steps: int, stop: int | None = None
    ) -> Any:
        starts = [np.random.default_rng(seed).standard_normal(sampler.dim) for seed in seeds]
        x = torch.from_numpy(np.stack(starts)).float()
        for step, (s, after) in enumerate(itertools.pairwise(even_grid(num_steps).tolist())):
            if step == stop:
                raise InterruptedError
            x = x + (after - s) * made.denoiser(x, s)
        return x

    made = Loop(sample, denoiser, lambda num_steps: even_grid(num_steps).tolist())
    return made
