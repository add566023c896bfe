"""Follow a schedule where otcache does not run: by its numbers, as sigmas, and as a mask of steps."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

import otcache
from composing.sampler import GRID, STEPS, Array, make_loop, noise, velocity
from otcache.schedules import write_schedule
from otcache_core import Registry
from otcache_core.contracts import Forecaster

SEEDS = range(100, 108)


def follow(schedule: otcache.Schedule, forecaster: Forecaster, x: Array) -> tuple[Array, int]:
    r"""Sample by a schedule: this is all that an executor does, whatever holds the arrays.

    .. math:: \hat v_t = \sum_r A_{t,r} v_{k_r} \quad \text{on skipped steps } t \text{ of each span}

    Args:
        schedule: of N steps; where guidance makes calls of two branches, ``spans(branch)`` has each one's.
        forecaster: the one that the schedule names; it gives A, made of numbers alone. Of one whose runs
            choose an order (``orders``) A is the table of a fixed order; otcache_core.Playback follows it.
        x: x_0.

    Returns:
        x_N, and how many outputs were computed.
    """
    outputs = list[Array]()  # of computed steps, latest first
    for span in schedule.spans():
        k = span.start
        outputs.insert(0, velocity(x, GRID[k]))
        x = x + (GRID[k + 1] - GRID[k]) * outputs[0]
        for t, row in zip(span.skipped, forecaster.coefficients(span, GRID), strict=True):
            forecast = sum(a * v for a, v in zip(row, outputs, strict=False))
            x = x + (GRID[t + 1] - GRID[t]) * forecast
    return x, len(outputs)


def on_sigmas(sigmas: Sequence[float], x: Array) -> Array:
    """Sample as a scheduler that takes custom sigmas does: one step from each to the next."""
    for s, after in pairwise(sigmas):
        x = x + (after - s) * velocity(x, s)
    return x


def by_mask(mask: Sequence[int], x: Array) -> Array:
    """Sample as a cache that takes a mask of steps does: 1 computes, 0 repeats the last output."""
    v = np.zeros_like(x)
    for i, computed in enumerate(mask):
        v = velocity(x, GRID[i]) if computed else v
        x = x + (GRID[i + 1] - GRID[i]) * v
    return x


def exported(schedule: otcache.Schedule) -> tuple[tuple[float, ...], list[int]]:
    """Return the sigmas of a schedule, and its mask as another program reads it from a file.

    A diffusers pipeline shifts the sigmas that it is given again; ``otcache_diffusers.export_sigmas`` gives
    those that it must be given.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mask.json")
        write_schedule(schedule, path, "mask")
        mask: list[int] = json.loads(path.read_text(encoding="utf-8"))
    return schedule.to_sigmas(GRID.tolist()), mask


def main(policy: otcache.Policy, registry: Registry, budget: int = 8) -> None:
    """Run one schedule in every way, and say how far each ends from the full run."""
    loop, x = make_loop(), noise(SEEDS)
    full = loop(["any"], list(SEEDS), STEPS).numpy()
    schedule = policy.schedule(budget)
    with otcache.accelerate(loop, schedule, registry=registry):
        ours = loop(["any"], list(SEEDS), STEPS).numpy()
    rule = registry.create("forecasters", schedule.forecaster)
    made, computed = follow(schedule, rule, x)
    sigmas, mask = exported(schedule.without_weights())
    reused = on_sigmas(sigmas, x), by_mask(mask, x)
    print(f"{computed} of {STEPS} outputs computed, the others by {schedule.forecaster!r}")
    print(f"follow(...) ends where otcache.accelerate does: {_rms(made - ours):.0e} apart")
    print(
        f"on {len(sigmas) - 1} sigmas and by a mask, the same: {_rms(reused[0] - reused[1]):.0e} apart"
    )
    print(
        f"from the full run: forecast {_rms(made - full):.1e}, reuse {_rms(reused[0] - full):.1e}"
    )


def _rms(off: Array) -> float:
    return float(np.sqrt((off**2).mean()))
