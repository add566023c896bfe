"""The ladder of the caches that reuse attention inside a range of timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from otcache_core.contracts import BaselineSetting
from otcache_diffusers.baselines.diffusers_caches.knob import differing_intervals


def attention_ladder(num_steps: int, ranges: Sequence[tuple[int, int]]) -> list[BaselineSetting]:
    """Every k-th step inside a range of timesteps computes attention, all of them outside.

    Args:
        num_steps: N.
        ranges: (low, high) within 0 .. 1000.

    Returns:
        Settings with ``interval``, ``low`` and ``high``, by the share of the timesteps that is skipped.
    """
    places = product(differing_intervals(num_steps), ranges)
    ordered = sorted(places, key=lambda place: (_skipped(*place), place))
    return [
        BaselineSetting(
            f"interval {k}, timesteps {low}..{high}",
            {"interval": k, "low": low, "high": high},
            num_steps,
        )
        for k, (low, high) in ordered
    ]


def _skipped(interval: int, span: tuple[int, int]) -> float:
    low, high = max(span[0], 0), min(span[1], 1000)
    return (1 - 1 / interval) * (high - low)
