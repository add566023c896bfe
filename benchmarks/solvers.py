"""Every installed solver on one calibration: ``python benchmarks/solvers.py OUT``.

The demo model, N = 30, guided and not: each solver's steps at six budgets with the calibration's fitted
forecasts, RMSE against the full run on held-out prompts. Solvers that need the pipeline begin at the policy's
schedule, as in ``otcache.plan(calibration, solver=..., pipe=...)``, and may spend 60 s and the evaluations of
one calibration a budget, if they have an option for it; what took more says so. OUT keeps calibrations and
rows, so an interrupted run goes on; OUT/solvers.md has the tables of docs/solvers.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from demo_runs import SEED, DemoRuns, call_of, head, parser, row, write

import otcache
from otcache.calibration.recipe import solver_of
from otcache.comparison.scheduled import Tuning
from otcache.planning import problem_of
from otcache_core import Need, OtcacheError, Result, ScheduleProblem, Solution
from otcache_core.contracts import ScheduleSolver
from otcache_core.plugins import Registry, installed
from otcache_core.transport import uniform_steps

BUDGETS = (4, 5, 6, 8, 10, 15)
SECONDS = 60.0


class Bench:
    """The demo model with or without guidance: a calibration and held-out errors."""

    def __init__(self, guided: bool, steps: int, counts: tuple[int, int], out: Path) -> None:
        self._runs = DemoRuns(steps, call_of(guided), counts=counts)
        self._runs.held_seeds = list(range(SEED, SEED + counts[1]))
        guidance = "guided" if guided else "unguided"
        self._folder = out / f"{guidance}-N{steps}-{counts[0]}-{counts[1]}"
        self._folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def calibration(self) -> otcache.Calibration:
        """The default calibration."""
        return self._runs.calibrate(self._folder / "calibration")

    @cached_property
    def tuning(self) -> Tuning:
        """The calibration samples, for solvers that need the pipeline."""
        prompts = self._runs.calibration_prompts
        request = self._runs.request(prompts, range(len(prompts)))
        return Tuning(self._runs.pipe, request, self._runs.registry)

    @cached_property
    def allowance(self) -> int:
        """Evaluations of one calibration."""
        return sum(self.calibration.nfe.values())

    @cached_property
    def in_time(self) -> int:
        """Evaluations that the pipeline makes in nine tenths of the time that a solver has."""
        n, evaluator, began = self._runs.num_steps, self.tuning.evaluator, time.perf_counter()
        schedules = [otcache.Schedule(n, uniform_steps(n, b)) for b in BUDGETS]
        nfe = evaluator.evaluate(schedules).nfe
        return int(0.9 * SECONDS * nfe / (time.perf_counter() - began))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return the default policy's row, and one per solver; finished ones from the folder."""
        names = ["policy", *(offer.info.name for offer in self._runs.registry.infos("solvers"))]
        for name in names:
            path = self._folder / f"{name}.json"
            if not path.exists():
                path.write_text(json.dumps(self._row(name)))
            yield json.loads(path.read_text())

    def _row(self, name: str) -> dict[str, Any]:
        fitted = otcache.plan(self.calibration)
        made: dict[str, Any] = {"name": name, "errors": {}, "seconds": 0.0, "nfe": 0, "said": ""}
        recorded = 0
        for budget in BUDGETS:
            if name == "policy":
                made["errors"][budget] = self._error(fitted.schedule(budget))
                continue
            solver = self._limited(name)
            problem, began = self._problem(solver, fitted.schedule(budget)), time.perf_counter()
            try:
                found = solver.solve(problem)
            except OtcacheError as error:
                made["said"] = str(error).partition(":")[0]
                break
            made["seconds"] = max(made["seconds"], time.perf_counter() - began)
            if Need.DISPLACEMENTS in solver.abilities.needs:
                recorded = self.tuning.displacements.nfe
            made["nfe"] = max(made["nfe"], recorded + found.nfe)
            made["result"] = made.get("result") or found.result.name.lower()
            made["certificate"] = found.certificate
            if found.schedule is not None:
                made["errors"][budget] = self._error(self._forecast(solver, fitted, found.schedule))
            made["said"] = self._too_much(made, found)
            if made["seconds"] > SECONDS:
                break
        return made

    def _limited(self, name: str) -> ScheduleSolver:
        most = min(self.allowance, self.in_time)
        return solver_of(self._runs.registry, name, max_nfe=most)

    def _problem(self, solver: ScheduleSolver, start: otcache.Schedule) -> ScheduleProblem:
        problem, needs = problem_of(self.calibration), solver.abilities.needs
        problem = replace(problem, budget=start.budget)
        if Need.EVALUATOR in needs:
            problem = replace(problem, evaluator=self.tuning.evaluator, reference=start)
        if Need.DISPLACEMENTS in needs:
            made = self.tuning.displacements  # before the clock: one recording serves every budget
            problem = replace(problem, displacements=lambda: made)
        return problem

    def _forecast(
        self, solver: ScheduleSolver, fitted: otcache.Policy, found: otcache.Schedule
    ) -> otcache.Schedule:
        """Return the policy's forecast on the solver's steps, or its own if measured better."""
        made = fitted.interpolation.on(found.computed)
        if Need.EVALUATOR not in solver.abilities.needs or made == found:
            return made
        errors = self.tuning.evaluator.evaluate([made, found]).errors
        return (made, found)[int(np.log(errors).mean(axis=1).argmin())]

    def _too_much(self, made: dict[str, Any], found: Solution) -> str:
        if found.nfe > self.allowance:
            return f"more evaluations than a calibration ({found.nfe:,} for one budget)"
        if made["seconds"] > SECONDS:
            return f"longer than {SECONDS:g} s for one budget"
        return "ended by its limit" if found.result is Result.BUDGET_SPENT else ""

    def _error(self, schedule: otcache.Schedule) -> float:
        return float(np.exp(np.log(np.maximum(self._runs.errors(schedule), 1e-12)).mean()))


def error_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line a solver: errors, the longest solve and what it said."""
    best = {int(b): e for b, e in rows[0]["errors"].items()}
    columns = [
        *(f"B = {b}" for b in BUDGETS),
        "s, at most",
        "evaluations, at most",
        "of the last budget",
    ]
    lines = head(("solver",), columns)
    for found in rows:
        own = {int(b): e for b, e in found["errors"].items()}
        cells = [f"{own[b]:.4f} ({own[b] / best[b]:.2f})" if b in own else "-" for b in BUDGETS]
        said = (found["said"] or found.get("certificate", "")).replace("|", "\\|")
        spent = f"{found['seconds']:.1f}", f"{found['nfe']:,}"
        lines.append(row(found["name"], *cells, *spent, said))
    return lines


def capability_table(registry: Registry) -> list[str]:
    """Return what each solver needs and can do, as it says itself."""
    columns = ("solver", "needs", "exact", "all budgets at once", "counts forecasts", "")
    lines = head(columns, ())
    for offer in registry.infos("solvers"):
        able = registry.create("solvers", offer.info.name).abilities
        needs = ", ".join(need.value for need in Need if need in able.needs) or "nothing"
        can = (able.exact, able.all_budgets, able.forecasts)
        marks = ("yes" if has else "" for has in can)
        lines.append(row(offer.info.name, needs, *marks, offer.info.summary))
    return lines


def main() -> None:
    """Measure all and write the page."""
    command = parser(__doc__, samples=16)
    command.add_argument("--steps", type=int, default=30)
    command.add_argument("--calibration", type=int, default=8, help="calibration prompts")
    options = command.parse_args()
    counts = options.calibration, options.samples
    lines: list[str] = []
    for guided in (True, False):
        bench = Bench(guided, options.steps, counts, options.out)
        lines += [
            f"## {'With' if guided else 'Without'} guidance",
            "",
            *error_table(list(bench.rows())),
            "",
        ]
    lines += ["## What they need, and what they can do", "", *capability_table(installed()), ""]
    write(options.out / "solvers.md", lines)


if __name__ == "__main__":
    main()
