"""How a deviation grows, read back from span costs."""

from __future__ import annotations

import numpy as np

from otcache.calibration.stages import gains, mean_gram
from otcache_core.testing import ToySampler


def test_gains_are_what_the_costs_were_made_with() -> None:
    toy = ToySampler(num_steps=6, num_samples=1)
    run = toy.trajectories()[0]
    wanted = np.array([1.0, 1.0, 3.0, 2.0, 0.5, 0.25, 1.0])
    costs = np.zeros((6, 7))
    for j in range(2, 7):
        local = run.states[j - 2] + (toy.grid[j] - toy.grid[j - 2]) * run.outputs[j - 2]
        costs[j - 2, j] = wanted[j] * np.sqrt(((local - run.states[j]) ** 2).mean())
    np.testing.assert_allclose(gains(costs, mean_gram([run]), toy.grid), wanted, rtol=1e-6)


def test_where_nothing_is_displaced_nothing_grows() -> None:
    assert (gains(np.zeros((4, 5)), np.ones((4, 4)), np.linspace(1, 0, 5)) == 1).all()
