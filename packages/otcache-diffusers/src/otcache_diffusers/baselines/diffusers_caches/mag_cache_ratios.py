"""MagCache's own calibration: the magnitude ratios of full runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import SampleRequest
from otcache_core.errors import ExecutionError
from otcache_diffusers.baselines.diffusers_caches.hooked import hooked
from otcache_diffusers.compat import cache_config, magnitude_hooks
from otcache_diffusers.recording.quiet import quiet
from otcache_diffusers.recording.sampling import Sampler


def magnitude_ratios(target: Any, request: SampleRequest) -> dict[str, list[float]]:
    """gamma_0 .. gamma_{N-1} of each cache context, means over tokens and samples.

    ``MagCacheConfig(calibrate=True)`` prints them and forgets them at step N: it is told N + 1, so that
    it does neither, and they are read from its state after each call.

    Args:
        target: the pipeline.
        request: calibration samples.

    Returns:
        Ratios by context, in the order that the pipeline enters them.

    Raises:
        ExecutionError: if the transformer is called another number of times than N in a context.
    """
    n, size = request.num_steps, max(1, request.batch_size)
    sampler, parts = Sampler(target, request), range(0, len(request.prompts), size)
    sums: dict[str, NDArray[np.float64]] = {}
    config = cache_config("MagCacheConfig")(calibrate=True, num_inference_steps=n + 1)
    with quiet(target), hooked(target, config), _reading(target.transformer) as seen:
        for start in parts:
            samples = range(start, min(start + size, len(request.prompts)))
            sampler(samples)
            for name, ratios in seen.items():
                _check(name, ratios, n)
                sums[name] = sums.get(name, np.zeros(n)) + len(samples) * np.array(ratios)
            seen.clear()
    return {name: (total / len(request.prompts)).tolist() for name, total in sums.items()}


def _check(name: str, ratios: list[float], n: int) -> None:
    if len(ratios) != n or not all(math.isfinite(ratio) for ratio in ratios):
        raise ExecutionError(
            f"MagCache saw {len(ratios)} steps of {name!r} in a run of {n}: it counts the calls of the "
            "transformer, so every step must make one call in each context."
        )


@contextmanager
def _reading(denoiser: Any) -> Iterator[dict[str, list[float]]]:
    """Ratios by context, as they stand in the head hook's state after each call."""
    found = magnitude_hooks(denoiser)
    seen: dict[str, list[float]] = {}

    def read(*call: Any) -> None:
        for name, state in found[0].state_manager._state_cache.items():
            seen[name] = list(state.calibration_ratios)

    handle = denoiser.register_forward_hook(read)
    try:
        yield seen
    finally:
        handle.remove()
