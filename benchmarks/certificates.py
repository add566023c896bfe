"""How far from the least vector sum a schedule can be: ``python benchmarks/certificates.py OUT``.

Displacements of the demo pipeline on a few calibration samples, under reuse, propagated by one gain a step
(``--propagation exact``: by a run for every span, about 4,000 evaluations a sample at N = 30). Every search
of the ``vector-sum`` solver on the same problem, beside each other: enumeration is the oracle, branch and
bound must find the same value and prove it, a beam is certified by the relaxation alone, once by the nearest
point and once by a QP through cvxpy. A second table runs the schedules, with what other rules choose and with
every neighbour: does the least vector sum have the least error? OUT keeps the displacements and
``certificates.md``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from otcache.running import choose
from otcache_core import Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Evaluator, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.problem import Displacements
from otcache_diffusers import demo
from otcache_solvers.costs.displacement import Displacement
from otcache_solvers.costs.propagation import Exact, Propagation, ScalarGain
from otcache_solvers.vector_sum.branch_and_bound import BranchAndBound
from otcache_solvers.vector_sum.relaxation import QuadraticProgram
from otcache_solvers.vector_sum.search import Beam, Enumeration
from otcache_solvers.vector_sum.solver import VectorSum

PROPAGATIONS: dict[str, Propagation] = {"gain": ScalarGain(), "exact": Exact()}
BUDGETS = (4, 6, 8, 10, 12, 15, 20)
#: Above this many schedules the oracle is left out.
ORACLE = 100_000_000
#: Larger budgets are not run: the second table costs some 30 accelerated runs a row.
RUN = 12


@dataclass(frozen=True)
class Bench:
    """One pipeline setting at one N."""

    num_steps: int
    guided: bool
    samples: int
    propagation: str
    out: Path

    @property
    def name(self) -> str:
        """Heading."""
        return f"N = {self.num_steps}, {'guided' if self.guided else 'unguided'}"

    def evaluator(self) -> tuple[list, Evaluator]:
        """Recorded runs, and the pipeline on exactly their samples."""
        left_out = () if self.guided else ("true_cfg_scale", "negative_prompt")
        call = {name: value for name, value in demo.CALL.items() if name not in left_out}
        prompts = tuple(text for text, _ in demo.prompts()["calibration"][: self.samples])
        request = SampleRequest(prompts, (0,) * len(prompts), self.num_steps, call, len(prompts))
        pipe = demo.load()
        probe = choose(Registry(), "probes", pipe)
        runs = list(probe.record(pipe, request))
        return runs, probe.evaluator(pipe, request, runs)

    def displacements(self, runs: list, evaluator: Evaluator) -> Displacements:
        """Measured once, then read from OUT."""
        path = self.out / f"{self.name}, {self.samples} samples, {self.propagation}.npz"
        if not path.exists():
            found = Displacement(PROPAGATIONS[self.propagation]).displacements(runs, evaluator)
            np.savez(path, spans=found.spans, per_sample=found.per_sample, how=found.propagation)
        with np.load(path) as data:
            spans = tuple((int(i), int(j)) for i, j in data["spans"])
            how = str(data["how"])
            return Displacements(self.num_steps, spans, data["per_sample"], propagation=how)

    def budgets(self) -> list[int]:
        """Those of this N."""
        return [b * self.num_steps // 30 for b in BUDGETS]


def problem_of(measured: Displacements, budget: int) -> ScheduleProblem:
    """The vector-sum problem of these displacements."""
    return ScheduleProblem(measured.num_steps, budget, displacements=lambda: measured)


def certified(bench: Bench, measured: Displacements, seconds: float) -> Iterator[str]:
    """One row a search and budget, a line at a time."""
    limit = BranchAndBound(seconds=seconds, max_width=2**17)
    solvers = {
        "enumeration": VectorSum(Enumeration(ORACLE)),
        "branch and bound": VectorSum(limit),
        "beam 64, min-norm point": VectorSum(Beam()),
        "beam 64, QP (Clarabel)": VectorSum(Beam(), QuadraticProgram()),
    }
    VectorSum().solve(problem_of(measured, 1))  # makes the mean Gram
    yield "| B | schedules | search | value | lower bound | gap | bound by | partial paths | time |"
    yield "|--:|--:|---|--:|--:|--:|---|--:|--:|"
    for budget in bench.budgets():
        count = math.comb(bench.num_steps - 1, budget - 1)
        for name, solver in solvers.items():
            if name == "enumeration" and count > ORACLE:
                continue
            if "QP" in name and bench.num_steps > 30:
                continue
            began = time.perf_counter()
            solution = solver.solve(problem_of(measured, budget))
            taken = time.perf_counter() - began
            yield row(budget, count, name, solution, taken)


def row(budget: int, count: int, name: str, solution: Solution, taken: float) -> str:
    """One line of the first table; why a gap is open follows the method."""
    proof = solution.stats["certificate"]
    gap = f"{100 * proof.gap:.2f} %" if proof.gap else "0"
    method = proof.method
    if proof.gap and name == "branch and bound":
        method += f"; {proof.reason}"
    paths = f"{solution.stats['labels']:,}" if "labels" in solution.stats else "-"
    return (
        f"| {budget} | {count:,} | {name} | {proof.value:.5g} | {proof.lower_bound:.5g} | {gap} | "
        f"{method} | {paths} | {taken:.2f} s |"
    )


def run(bench: Bench, measured: Displacements, evaluator: Evaluator) -> Iterator[str]:
    """True error of what each rule chooses, and how many neighbours are better."""
    rules = ("lexicographic", "shortest-path", "uniform")
    yield "| B | f' M f | true squared error | better neighbours | " + " | ".join(rules) + " |"
    yield "|--:|--:|--:|--:|" + "--:|" * len(rules)
    costs = measured.weights()
    for budget in (b for b in bench.budgets() if b <= RUN):
        problem = replace(problem_of(measured, budget), costs=costs)
        best = VectorSum().solve(problem)
        assert best.schedule is not None
        others = [Registry().create("solvers", rule).solve(problem).schedule for rule in rules]
        near = neighbours(best.schedule)
        grams = evaluator.evaluate([best.schedule, *others, *near], objective="latent-rmse").grams
        errors = np.diagonal(grams, axis1=1, axis2=2).mean(axis=0)
        better = int((errors[1 + len(rules) :] < errors[0]).sum())
        ratios = [f"{errors[m] / errors[0]:.3f}" for m in range(1, 1 + len(rules))]
        yield (
            f"| {budget} | {best.objective:.5g} | {errors[0]:.5g} | {better} of {len(near)} | "
            + " | ".join(ratios)
            + " |"
        )


def neighbours(schedule: Schedule) -> list[Schedule]:
    """Every schedule with one computed step moved by one."""
    kept = set(schedule.computed)
    moved = [
        (*(kept - {k}), k + by)
        for k in schedule.computed[1:]
        for by in (-1, 1)
        if k + by not in kept and k + by < schedule.num_steps
    ]
    n = schedule.num_steps
    return [Schedule(num_steps=n, computed=tuple(sorted(steps))) for steps in moved]


def main() -> None:
    """Measure, search and write both tables of every setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[30, 50], help="values of N")
    parser.add_argument("--samples", type=int, default=4, help="calibration prompts, one seed each")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of branch and bound")
    parser.add_argument("--propagation", choices=PROPAGATIONS, default="gain")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    text = ["# Certificates", "", "Made by `nox -s bench -- certificates OUT`."]
    for bench in (
        Bench(n, guided, asked.samples, asked.propagation, asked.out)
        for n in asked.steps
        for guided in (True, False)
    ):
        runs, evaluator = bench.evaluator()
        measured = bench.displacements(runs, evaluator)
        text += ["", f"## {bench.name}", "", caption(measured, asked.seconds), ""]
        print("\n".join(text[-4:]), flush=True)
        for line in certified(bench, measured, asked.seconds):
            text.append(line)
            print(line, flush=True)
        text += ["", TRUE, ""]
        print("\n".join(text[-3:]))
        for line in run(bench, measured, evaluator):
            text.append(line)
            print(line, flush=True)
        (asked.out / "certificates.md").write_text("\n".join([*text, ""]), encoding="utf-8")


TRUE = (
    "The least f' M f of each budget, run: its true squared error on the same samples, how many of the "
    "schedules with one step moved by one have a smaller one, and the true squared error of what other rules "
    "choose over its own."
)


def caption(measured: Displacements, seconds: float) -> str:
    """What the bounds bound."""
    stats = VectorSum().solve(problem_of(measured, 2)).stats
    proof = stats["certificate"]
    return (
        f"Objective: {proof.objective}. Forecaster: {proof.forecaster}. Samples: {proof.samples} "
        f"calibration prompts, one seed. Vectors of rank {stats['rank']} for {len(measured.spans)} spans. "
        f"Nothing else is bounded. Time limit of branch and bound: {seconds:g} s."
    )


if __name__ == "__main__":
    main()
