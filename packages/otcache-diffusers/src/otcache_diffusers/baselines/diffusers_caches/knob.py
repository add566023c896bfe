"""Places on a knob."""

from __future__ import annotations

import numpy as np


def geometric(low: float, high: float, count: int) -> list[float]:
    """Thresholds at equal ratios from low to high, to three digits."""
    return [float(f"{value:.3g}") for value in np.geomspace(low, high, count)]


def differing_intervals(num_steps: int) -> list[int]:
    """Intervals k = 2, 3, ... of which each computes fewer of N steps than the one before.

    Every k-th of N steps is computed, ceil(N / k) in all.
    """
    counts = {k: -(-num_steps // k) for k in range(num_steps, 1, -1)}
    smallest = {count: k for k, count in counts.items()}
    return sorted(smallest.values())
