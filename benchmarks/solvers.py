"""Every installed solver on one calibration: ``python benchmarks/solvers.py OUT``.

The demo model, N = 30, guided and not: each solver's steps at six budgets with the calibration's fitted
forecasts, RMSE against the full run on held-out prompts. Solvers that need the pipeline begin at the policy's
schedule, as in ``otcache.plan(calibration, solver=..., pipe=...)``, and may spend 60 s and the evaluations of
one calibration a budget, as far as they can be told to; what took more says so. OUT
keeps calibrations and rows, so an interrupted run goes on; OUT/solvers.md is the page, docs/solvers.md a
copy of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import otcache
from otcache.comparison.scheduled import Tuning
from otcache.planning import problem_of
from otcache.running import choose
from otcache_core import Need, OtcacheError, Result, ScheduleProblem, Solution
from otcache_core.contracts import SampleRequest, ScheduleSolver
from otcache_core.plugins import Registry, installed
from otcache_core.transport import uniform_steps
from otcache_diffusers import demo

BUDGETS = (4, 5, 6, 8, 10, 15)
SECONDS = 60.0
BATCH = 16
#: Solvers that are told how far to go, by the option that tells them.
LIMITS = ("max_nfe",)
HEAD = """# Solvers

Every installed solver on the shipped image model, N = {steps}, by `nox -s bench -- solvers OUT`;
{calibrated} calibration prompts, {held} held-out ones. The steps are the solver's, the forecasts the
calibration's fitted ones at that budget (`otcache.plan(calibration, solver=...)`). A solver that needs the
pipeline searches on the calibration prompts; one that begins at a schedule begins at the policy's, and
forecasts of its own are kept where they do better there. Each may take {seconds:g} s a budget, and the
evaluations of one calibration. Errors are the geometric mean over held-out prompts of the RMSE of decoded
pictures against the full run; in brackets their ratio to the default policy's. Every rung of `policy`,
which is `otcache.plan(calibration)`, was measured when it was chosen; in the other rows only what a search
measures itself, within its evaluations, but for the choice between two forecasts. {note}
"""


class Bench:
    """The demo model with or without guidance: a calibration and held-out errors."""

    def __init__(self, guided: bool, steps: int, counts: tuple[int, int], out: Path) -> None:
        self.registry: Registry = installed()
        self._call = dict(demo.CALL)
        if not guided:
            del self._call["true_cfg_scale"], self._call["negative_prompt"]
        self._target, self._steps = demo.load(), steps
        roles = demo.prompts()
        self._prompts = [text for text, _ in roles["calibration"]][: counts[0]]
        self._held = [text for text, _ in roles["heldout"]][: counts[1]]
        self._folder = (
            out / f"{'guided' if guided else 'unguided'}-N{steps}-{counts[0]}-{counts[1]}"
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._probe = choose(self.registry, "probes", self._target)

    @cached_property
    def calibration(self) -> otcache.Calibration:
        """The default calibration."""
        return otcache.calibrate(
            self._target,
            self._prompts,
            self._steps,
            recipe=otcache.Recipe(batch_size=BATCH),
            directory=self._folder / "calibration",
            **self._call,
        )

    @cached_property
    def tuning(self) -> Tuning:
        """The calibration samples, for solvers that need the pipeline."""
        return Tuning(self._target, self._request(self._prompts, 0), self.registry)

    @cached_property
    def allowance(self) -> int:
        """Evaluations of one calibration."""
        return sum(self.calibration.nfe.values())

    @cached_property
    def in_time(self) -> int:
        """Evaluations that the pipeline makes in nine tenths of the time that a solver has."""
        evaluator, began = self.tuning.evaluator, time.perf_counter()
        schedules = [otcache.Schedule(self._steps, uniform_steps(self._steps, b)) for b in BUDGETS]
        nfe = evaluator.evaluate(schedules).nfe
        return int(0.9 * SECONDS * nfe / (time.perf_counter() - began))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The default policy's row, and one a solver; finished ones from the folder."""
        names = ["policy", *(offer.info.name for offer in self.registry.infos("solvers"))]
        for name in names:
            path = self._folder / f"{name}.json"
            if not path.exists():
                path.write_text(json.dumps(self._row(name)))
            yield json.loads(path.read_text())

    def _row(self, name: str) -> dict[str, Any]:
        fitted = otcache.plan(self.calibration)
        row: dict[str, Any] = {"name": name, "errors": {}, "seconds": 0.0, "nfe": 0, "said": ""}
        recorded = 0
        for budget in BUDGETS:
            if name == "policy":
                row["errors"][budget] = self._error(fitted.schedule(budget))
                continue
            solver = self._limited(name)
            problem, began = self._problem(solver, fitted.schedule(budget)), time.perf_counter()
            try:
                found = solver.solve(problem)
            except OtcacheError as error:
                row["said"] = str(error).partition(":")[0]
                break
            row["seconds"] = max(row["seconds"], time.perf_counter() - began)
            if Need.DISPLACEMENTS in solver.abilities.needs:
                recorded = self.tuning.displacements.nfe
            row["nfe"] = max(row["nfe"], recorded + found.nfe)
            row["result"] = row.get("result") or found.result.name.lower()
            row["certificate"] = found.certificate
            if found.schedule is not None:
                row["errors"][budget] = self._error(self._forecast(solver, fitted, found.schedule))
            row["said"] = self._too_much(row, found)
            if row["seconds"] > SECONDS:
                break
        return row

    def _limited(self, name: str) -> ScheduleSolver:
        kind = self.registry.get("solvers", name)
        known = {f.name for f in fields(kind)} if is_dataclass(kind) else set()
        most = min(self.allowance, self.in_time)
        options: dict[str, Any] = {limit: most for limit in LIMITS if limit in known}
        return self.registry.create("solvers", name, **options)

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
        """The policy's forecast on the solver's steps, or the solver's own if that is measured better."""
        made = fitted.interpolation.on(found.computed)
        if Need.EVALUATOR not in solver.abilities.needs or made == found:
            return made
        errors = self.tuning.evaluator.evaluate([made, found]).errors
        return (made, found)[int(np.log(errors).mean(axis=1).argmin())]

    def _too_much(self, row: dict[str, Any], found: Solution) -> str:
        if found.nfe > self.allowance:
            return f"more evaluations than a calibration ({found.nfe:,} for one budget)"
        if row["seconds"] > SECONDS:
            return f"longer than {SECONDS:g} s for one budget"
        return "ended by its limit" if found.result is Result.BUDGET_SPENT else ""

    def _error(self, schedule: otcache.Schedule) -> float:
        full = self._full
        with otcache.accelerate(self._target, schedule):
            difference = self._sample() - full
        errors = np.sqrt(np.square(difference).reshape(len(difference), -1).mean(axis=1))
        return float(np.exp(np.log(np.maximum(errors, 1e-12)).mean()))

    @cached_property
    def _full(self) -> np.ndarray:
        return self._sample()

    def _sample(self) -> np.ndarray:
        parts = [self._held[at : at + BATCH] for at in range(0, len(self._held), BATCH)]
        made = [self._probe.sample(self._target, self._request(part, 1000)) for part in parts]
        return np.concatenate(made).astype(np.float64)

    def _request(self, prompts: Sequence[str], seed: int) -> SampleRequest:
        seeds = tuple(range(seed, seed + len(prompts)))
        return SampleRequest(tuple(prompts), seeds, self._steps, self._call, BATCH)


def error_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line a solver: errors, the longest solve and what it said."""
    best = {int(b): e for b, e in rows[0]["errors"].items()}
    heads = " | ".join(f"B = {b}" for b in BUDGETS)
    lines = [f"| solver | {heads} | s, at most | evaluations, at most | of the last budget |"]
    lines.append(f"|---|{'--:|' * (len(BUDGETS) + 2)}---|")
    for row in rows:
        own = {int(b): e for b, e in row["errors"].items()}
        cells = [f"{own[b]:.4f} ({own[b] / best[b]:.2f})" if b in own else "-" for b in BUDGETS]
        told = (row["said"] or row.get("certificate", "")).replace("|", "\\|")
        lines.append(
            f"| {row['name']} | {' | '.join(cells)} | {row['seconds']:.1f} | {row['nfe']:,} | {told} |"
        )
    return lines


def capability_table(registry: Registry) -> list[str]:
    """What each solver needs and can do, as it says itself."""
    lines = [
        "| solver | needs | exact | all budgets at once | counts forecasts | |",
        "|---|---|---|---|---|---|",
    ]
    for offer in registry.infos("solvers"):
        able = registry.create("solvers", offer.info.name).abilities
        needs = ", ".join(need.value for need in Need if need in able.needs) or "nothing"
        marks = " | ".join(
            "yes" if has else "" for has in (able.exact, able.all_budgets, able.forecasts)
        )
        lines.append(f"| {offer.info.name} | {needs} | {marks} | {offer.info.summary} |")
    return lines


def main() -> None:
    """Measure all and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--calibration", type=int, default=8, help="calibration prompts")
    parser.add_argument("--samples", type=int, default=16, help="held-out prompts")
    parser.add_argument("--note", default="", help="a sentence on how it was run, for the page")
    asked = parser.parse_args()
    counts = asked.calibration, asked.samples
    facts = {"calibrated": counts[0], "held": counts[1], "seconds": SECONDS, "note": asked.note}
    lines = [HEAD.format(steps=asked.steps, **facts)]
    for guided in (True, False):
        bench = Bench(guided, asked.steps, counts, asked.out)
        lines += [
            f"## {'With' if guided else 'Without'} guidance",
            "",
            *error_table(list(bench.rows())),
            "",
        ]
    lines += ["## What they need, and what they can do", "", *capability_table(installed()), ""]
    (asked.out / "solvers.md").write_text("\n".join(lines), encoding="utf-8")
    print(asked.out / "solvers.md")


if __name__ == "__main__":
    main()
