"""Cost models on recorded runs that lie on the disk: the same numbers, a slab of memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from otcache_core import Trajectory
from otcache_core.identification import euler_residual, identify
from otcache_core.storage.recordings import SLAB, StepsOnDisk, inner_products
from otcache_solvers.costs.displacement import Displacement, Local
from otcache_solvers.costs.gram import Gram, GramCosts
from otcache_solvers.costs.mean_velocity import MeanVelocity
from otcache_solvers.costs.propagation import Propagation


class Unpropagated(Propagation):
    description = "none"

    def grams(self, deviations, evaluator):
        return deviations.local, 0


N, LONG = 4, 9 * SLAB + 5
READERS = {
    "local": lambda run: Local().measure([run]).costs,
    "mean-velocity": lambda run: MeanVelocity().measure([run]).costs,
    "gram": lambda run: GramCosts().measure([run]).costs,
    "displacement": lambda run: Displacement(Unpropagated()).measure([run]).costs,
    "Gram, for forecast costs and H": lambda run: Gram.of([run]).matrix,
    "inner products": lambda run: inner_products(run.states),
    "Euler residual": lambda run: euler_residual([run]),
    "recurrence": lambda run: identify([run]).states,
}


def on_disk(rows: np.ndarray, folder) -> np.ndarray:
    steps = StepsOnDisk((1, rows.shape[1]), folder)
    for row in rows:
        steps.append(row[None])
    return steps.samples()[0]


def run_of(d: int) -> Trajectory:
    """Adams-Bashforth, so that no reader stops at the Euler rule."""
    rng = np.random.default_rng(d)
    grid, x, v = np.linspace(1, 0, N + 1), [rng.standard_normal(d)], []
    for h in np.diff(grid):
        v.append(np.sin(3 * x[-1]) + 0.1 * rng.standard_normal(d))
        x.append(x[-1] + h * (1.5 * v[-1] - 0.5 * v[-2] if v[1:] else v[-1]))
    return Trajectory(grid, np.float32(x), np.float32(v))


def mapped(run: Trajectory, folder) -> Trajectory:
    return Trajectory(run.grid, on_disk(run.states, folder), on_disk(run.outputs, folder))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("d", [64, 300, SLAB + 7])
def test_a_run_on_the_disk_gives_the_very_same_numbers(read, d, tmp_path):
    run = run_of(d)
    np.testing.assert_array_equal(read(mapped(run, tmp_path)), read(run))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_reader_takes_memory_with_the_length_of_the_latents(read, tmp_path):
    run = mapped(run_of(LONG), tmp_path)
    tracemalloc.start()
    read(run)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * (N + 1) * 8 * SLAB  # float64 slabs, a few at once; all would be nine each
