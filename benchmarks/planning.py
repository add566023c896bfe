"""Time and peak memory of every planner against N, as Markdown: ``python benchmarks/planning.py``.

Costs are random; the Gram and the displacements are those of a small ODE. Solvers that run a pipeline run
that ODE (ToySampler, two samples of six numbers): their time is that of the search and of next to nothing
else. B = N/5, anchor N/8, reference N/3, unless a row says "all B". Time is the best of up to three runs;
memory is the peak that tracemalloc saw in one more, so it counts what Python and numpy allocate and not
what a C++ library does inside. "-": the order of the method makes N too large for
this benchmark. Exits with status 1 if a promise in the second table is not kept. The text around the tables
is in docs/planning.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import msgspec
import networkx as nx
import numpy as np
import ot
from numpy.typing import NDArray

from otcache_core import Policy, Provenance, Schedule, ScheduleProblem
from otcache_core.plugins import Registry
from otcache_core.problem import Displacements
from otcache_core.testing import ToySampler
from otcache_core.transport import round_to_steps, uniform_steps
from otcache_solvers.additive.second_order import SecondOrder
from otcache_solvers.additive.shortest_path import Lexicographic
from otcache_solvers.costs.displacement import Displacement
from otcache_solvers.costs.gram import Gram
from otcache_solvers.transport.exact_lp import HiGHS
from otcache_solvers.transport.geodesic import between, ground_cost
from otcache_solvers.transport.unbalanced import KullbackLeibler
from otcache_solvers.vector_sum.search import Beam

STEPS = (10, 20, 50, 100, 200, 500, 1000)
#: A run that takes longer is not repeated.
PATIENCE = 0.3
#: Schedules that a search may run.
TRIALS = 40
#: Budgets of the rungs of a policy, as shares of N.
RUNGS = (0.1, 0.17, 0.27, 0.5)


def random_costs(n: int, cap: int | None = None) -> NDArray[np.float64]:
    """Costs that grow with the square of the span's length, times noise; longer than cap: never."""
    start, stop = np.indices((n, n + 1))
    noise = np.random.default_rng(0).random((n, n + 1))
    costs = np.where(stop > start + 1, (stop - start - 1.0) ** 2 * noise, 0.0)
    return np.where(stop - start > (cap or n), np.inf, costs)


def evenly(n: int, budget: int) -> Schedule:
    """Evenly spaced steps."""
    return Schedule(n, uniform_steps(n, budget))


@dataclass(frozen=True)
class Case:
    """What the planners are given at one N; the Gram is made on first use."""

    n: int

    @cached_property
    def problem(self) -> ScheduleProblem:
        """B = N/5 with costs and both ends."""
        ends = [evenly(self.n, max(2, self.n // share)) for share in (8, 3)]
        costs = random_costs(self.n)
        return ScheduleProblem(self.n, max(2, self.n // 5), costs, ends[0], ends[1])

    @cached_property
    def everything(self) -> ScheduleProblem:
        """B = N, for planners that answer all budgets in one pass."""
        n, sampler = self.n, ToySampler(num_steps=self.n)
        gram = Gram.of(sampler.trajectories()).matrix
        return ScheduleProblem(n, n, self.problem.costs, gram=gram, grid=sampler.grid)

    @cached_property
    def search(self) -> ScheduleProblem:
        """B = N/5 on the toy ODE, with even steps to start from and displacements of every span."""
        toy, budget = ToySampler(num_steps=self.n, num_samples=2), self.problem.budget
        start, evaluator = evenly(self.n, budget), toy.evaluator()

        @cache
        def displacements() -> Displacements:
            return Displacement().displacements(toy.trajectories(), evaluator)

        return ScheduleProblem(
            self.n, budget, reference=start, evaluator=evaluator, displacements=displacements
        )

    def graph(self) -> object:
        """Networkx alone: Dijkstra on the span graph, any number of spans."""
        graph = nx.DiGraph()
        for i, row in enumerate(self.problem.costs.tolist()):
            graph.add_weighted_edges_from((i, j, row[j]) for j in range(i + 1, self.n + 1))
        return nx.dijkstra_path(graph, 0, self.n)

    def emd(self) -> object:
        """POT alone: the coupling of the same two ends."""
        a, b = self.problem.anchor, self.problem.reference
        costs = between(ground_cost("step", self.problem), a, b)
        return ot.emd(np.full(a.budget, 1 / a.budget), np.full(b.budget, 1 / b.budget), costs)


REGISTRY = Registry()


def _solve(name: str, **options: object) -> Callable[[Case], object]:
    return lambda case: REGISTRY.create("solvers", name, **options).solve(case.problem)


def _run(name: str, **options: object) -> Callable[[Case], object]:
    return lambda case: REGISTRY.create("solvers", name, **options).solve(case.search)


#: Name, order, the largest N that is tried, and the work.
Row = tuple[str, str, int, Callable[[Case], object]]
ROWS: list[Row] = [
    ("uniform", "B", 1000, _solve("uniform")),
    ("brute-force", "binom(N-1, B-1)", 20, _solve("brute-force")),
    ("networkx alone (no budget)", "N^2 log N", 1000, Case.graph),
    ("shortest-path (networkx)", "B N^2 log N", 100, _solve("shortest-path")),
    ("peak-suppressed", "B N^2", 1000, _solve("peak-suppressed")),
    ("lexicographic", "B^2 N^2", 1000, _solve("lexicographic")),
    ("lexicographic, all B", "N^4", 200, lambda c: Lexicographic().frontier(c.everything)),
    ("second-order, all B", "N^4", 200, lambda c: SecondOrder().frontier(c.everything)),
    ("quantile", "B N", 1000, _solve("quantile")),
    ("POT alone (ot.emd)", "B_a B_r (B_a + B_r) log", 1000, Case.emd),
    ("exact-lp", "as ot.emd, + N (B_a + B_r)", 1000, _solve("exact-lp")),
    ("exact-lp, HiGHS", "simplex, B_a B_r unknowns", 200, _solve("exact-lp", backend=HiGHS())),
    ("sinkhorn", "iterations B_a B_r", 1000, _solve("sinkhorn")),
    ("unbalanced, total variation", "as exact-lp", 1000, _solve("unbalanced")),
    ("unbalanced, KL", "as sinkhorn", 1000, _solve("unbalanced", penalty=KullbackLeibler())),
    ("vector-sum, beam", "B N^2 width r", 50, _run("vector-sum", search=Beam())),
    ("vector-sum, enumeration", "binom(N-1, B-1) r", 20, _run("vector-sum")),
    ("state-dp (B N runs)", "B N^2 a sample", 100, _run("state-dp")),
    (
        f"anchor-search ({TRIALS} runs)",
        "runs N per sample, + Optuna",
        1000,
        _run("anchor-search", max_trials=TRIALS * 3 // 5, climb_trials=TRIALS * 2 // 5),
    ),
    (
        f"annealing ({TRIALS} runs)",
        "runs N per sample",
        1000,
        _run("annealing", iterations=TRIALS, max_trials=TRIALS),
    ),
    (f"refine ({TRIALS} runs)", "runs N per sample", 1000, _run("refine", max_trials=TRIALS)),
    ("gauss-newton (3 B runs)", "B N per sample, + B^3", 200, _run("gauss-newton")),
]


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the least wall time of a few runs; slow ones are not repeated."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
        if best > PATIENCE:
            break
    return best


def mebibytes(work: Callable[[], object]) -> float:
    """Peak of what the work allocates."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def in_words(time_s: float) -> str:
    """Three figures and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if time_s * scale >= 1:
            return f"{time_s * scale:.3g} {unit}"
    return f"{time_s * 1e6:.0f} us"


def table(steps: list[int]) -> Iterator[str]:
    """One row a planner, one column an N; a line at a time."""
    yield "| planner | order | " + " | ".join(f"N = {n}" for n in steps) + " |"
    yield "|---|---|" + "--:|" * len(steps)
    cases = [Case(n) for n in steps]
    for name, order, largest, work in ROWS:
        cells = []
        for case in cases:
            if case.n > largest:
                cells.append("-")
                continue
            memory = mebibytes(lambda work=work, case=case: work(case))  # also warms the case up
            taken = seconds(lambda work=work, case=case: work(case))
            cells.append(f"{in_words(taken)}, {memory:.3g} MiB")
        yield f"| {name} | {order} | " + " | ".join(cells) + " |"


def from_stored_data(folder: Path) -> float:
    """All budgets of N = 50 by second-order and lexicographic, reading the data included."""
    known, path = Case(50).everything, folder / "stored.npz"
    np.savez(path, **{name: getattr(known, name) for name in ("gram", "grid", "costs")})

    def work() -> None:
        with np.load(path) as data:
            problem = ScheduleProblem(50, 50, **data)
        for solver in (SecondOrder(), Lexicographic()):
            assert len(solver.frontier(problem)) == 50

    return seconds(work)


def policy_of(n: int) -> Policy:
    """Return a ladder that crowds at the end: three weights a span and branch where there is a past."""

    def rung(budget: int) -> Schedule:
        steps = round_to_steps(1 - (1 - np.arange(budget) / budget) ** 1.5, n)
        rows = [(0.1, 0.3, -0.05)[: m + 1] for m in range(budget)]
        return Schedule(n, steps).with_weights(rows, {"cond": rows, "uncond": rows})

    ladder = tuple(rung(max(2, round(share * n))) for share in RUNGS)
    grid = tuple(np.linspace(1.0, 0.0, n + 1).tolist())
    return Policy(ladder[0], ladder[-1], Provenance(num_steps=n, grid=grid), ladder)


def lookup(n: int, cached: bool) -> float:
    """Return the slowest ``policy.schedule(b)`` of b = 2 .. N, medians of five; cold: nothing is cached."""
    policy, slowest = policy_of(n), 0.0
    for budget in range(2, n + 1):
        times = []
        for _ in range(5):
            if not cached:
                policy = msgspec.structs.replace(policy)
            began = time.perf_counter()
            policy.schedule(budget)
            times.append(time.perf_counter() - began)
        slowest = max(slowest, sorted(times)[2])
    return slowest


def promises() -> Iterator[tuple[str, float, float | None]]:
    """Return what is promised, the seconds measured, and the limit; None if nothing is promised."""
    with tempfile.TemporaryDirectory() as folder:
        text = "every budget at N = 50 from stored data, second-order and lexicographic"
        yield text, from_stored_data(Path(folder)), 2.0
    capped = ScheduleProblem(1000, 50, random_costs(1000, cap=50))
    text = "lexicographic at N = 1000, B = 50, span cap 50"
    yield text, seconds(lambda: Lexicographic().solve(capped)), 10.0
    for n in (50, 100, 1000):
        for kind in ("cold", "cached"):
            text = f"`policy.schedule(b)` at N = {n}, slowest of b = 2 .. N, {kind}"
            yield text, lookup(n, kind == "cached"), 1e-3 if n <= 100 else None


def main() -> int:
    """Print both tables; 0 if every promise is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="values of N")
    steps = parser.parse_args().steps
    for line in table(steps):
        print(line, flush=True)
    print("\n| promise | measured | limit | |\n|---|--:|--:|---|")
    missed = False
    for text, measured, limit in promises():
        if limit is None:
            print(f"| {text} | {in_words(measured)} | - | no promise |", flush=True)
            continue
        missed |= measured > limit
        verdict = "**missed**" if measured > limit else "kept"
        print(f"| {text} | {in_words(measured)} | {in_words(limit)} | {verdict} |", flush=True)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
