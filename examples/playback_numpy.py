"""Follow a playback table with numpy: of otcache ``otcache-core`` alone, no torch and no pipeline.

``python examples/playback_numpy.py`` makes a policy by hand; with a policy file, such as
``otcache plan`` writes, it follows that one: ``python examples/playback_numpy.py POLICY BUDGET``.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from otcache_core import Playback, PlaybackTable, Policy, Provenance, Schedule

STEPS, BUDGET = 24, 8
Points = NDArray[np.float64]


class Velocity:
    """A denoiser: the exact flow from noise to eight narrow normal distributions on a circle.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self) -> None:
        self.calls = 0
        angles = np.arange(8) * np.pi / 4
        self._means = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self._width = 0.2

    def __call__(self, x: Points, s: float) -> Points:
        """Return v(x, s) = (x - E[x_0 | x]) / s for points x = (1 - s) x_0 + s noise."""
        self.calls += 1
        alpha, variance = 1 - s, (1 - s) ** 2 * self._width**2 + s**2
        distances = ((x[:, None] - alpha * self._means) ** 2).sum(-1)
        logits = -distances / (2 * variance)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        near = weights / weights.sum(1, keepdims=True) @ self._means
        shrink = alpha * self._width**2 / variance
        clean: Points = near + shrink * (x - alpha * near)
        return (x - clean) / s


def sample(denoiser: Velocity, grid: Points, table: PlaybackTable | None = None) -> Points:
    """Sample with Euler from noise to data, by a table if there is one."""
    x = np.random.default_rng(0).standard_normal((512, 2))
    playback = Playback(table) if table else None
    if playback:
        playback.begin()
    for step in range(len(grid) - 1):
        output = playback.forecast("", step, x) if playback else None
        if output is None:
            output = denoiser(x, grid[step])
            if playback:
                playback.keep("", step, output, x)
        x = x + (grid[step + 1] - grid[step]) * output
    return x


def policy_by_hand() -> Policy:
    """Return two schedules of linear forecasts; every budget between them is interpolated."""
    few = Schedule(STEPS, (0, 2, 10, 18, 22), "linear")
    more = Schedule(STEPS, (0, 1, 3, 6, 9, 11, 13, 15, 17, 19, 21, 22, 23), "linear")
    grid = tuple(np.linspace(1, 0, STEPS + 1).tolist())
    return Policy(few, more, Provenance(STEPS, prediction_type="flow", grid=grid))


def main(policy: Policy, budget: int) -> str:
    """Export the policy's table, sample in full and by it, and say what that gives."""
    table = policy.export(budget)
    grid = np.array(table.grid or np.linspace(1, 0, table.num_steps + 1))
    full, fast = Velocity(), Velocity()
    target = sample(full, grid)
    difference = sample(fast, grid, table) - target
    error = np.sqrt((difference**2).mean() / (target**2).mean())
    return (
        f"denoiser calls {fast.calls} of {full.calls}, N / B = {full.calls / fast.calls:.2f}; "
        f"relative error to the full run {error:.1e}"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(main(Policy.load(sys.argv[1]), int(sys.argv[2])))
    else:
        print(main(policy_by_hand(), BUDGET))
