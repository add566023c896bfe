"""Which steps TaylorSeer computes: its rule counts calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaylorSeerRule:
    r"""Computed are the first w steps, and every k-th from step w + 1 on.

    .. math:: t < w \;\vee\; (t - w - 1) \bmod k = 0

    Args:
        warmup: w, ``disable_cache_before_step``, at least 1.
        interval: k, ``cache_interval``, at least 1.
    """

    warmup: int
    interval: int

    def computed(self, num_steps: int) -> tuple[int, ...]:
        """Computed steps of 0 .. N-1."""
        w, k = self.warmup, self.interval
        return tuple(t for t in range(num_steps) if t < w or (t - w - 1) % k == 0)
