"""Time of each planner against N, beside networkx's shortest path: ``python benchmarks/planning.py``.

Costs are random and the Gram is that of a small ODE; no pipeline runs. ``all`` plans every budget
1 .. N where a planner answers them in one pass; the other columns plan B = N/5.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from otcache_core import Schedule, ScheduleProblem
from otcache_core.testing import ToySampler
from otcache_solvers.costs import Gram
from otcache_solvers.lexicographic import Lexicographic
from otcache_solvers.quantile import Quantile
from otcache_solvers.second_order import SecondOrder
from otcache_solvers.shortest_path import ShortestPath

LARGEST = {"shortest-path": 100, "second-order": 200}


def random_costs(n: int) -> NDArray[np.float64]:
    """Costs that grow with the square of the span's length, times noise."""
    start, stop = np.indices((n, n + 1))
    noise = np.random.default_rng(0).random((n, n + 1))
    return np.where(stop > start + 1, (stop - start - 1.0) ** 2 * noise, 0.0)


def planners(n: int) -> dict[str, Callable[[], object]]:
    """What is timed at N = n, by name."""
    budget = max(2, n // 5)
    costs, sampler = random_costs(n), ToySampler(num_steps=n)
    gram = Gram.of(sampler.trajectories()).matrix
    ends = [Schedule(num_steps=n, computed=tuple(range(0, n, n // b))) for b in (2, max(3, n // 3))]
    problem = ScheduleProblem(n, budget, costs, anchor=ends[0], reference=ends[1])
    everything = ScheduleProblem(n, n, costs)
    return {
        "shortest-path": lambda: ShortestPath().solve(problem),
        "lexicographic": lambda: Lexicographic().solve(problem),
        "lexicographic all": lambda: Lexicographic().frontier(everything),
        "second-order all": lambda: SecondOrder(gram, sampler.grid).solve(problem),
        "quantile": lambda: Quantile().solve(problem),
    }


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The least wall time of a few runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Print one row a step count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 50, 100, 200])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    names = list(planners(10))
    print("N".rjust(5), *(name.rjust(18) for name in names))
    for n in options.steps:
        row = []
        for name, work in planners(n).items():
            skip = n > LARGEST.get(name.removesuffix(" all"), n)
            row.append("-" if skip else f"{1e3 * seconds(work, options.repeats):.1f} ms")
        print(str(n).rjust(5), *(cell.rjust(18) for cell in row))


if __name__ == "__main__":
    main()
