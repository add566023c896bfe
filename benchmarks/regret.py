"""How far from the best possible schedule each way to choose one ends: ``python benchmarks/regret.py OUT``.

N = 16, B = 2 .. 5, every one of the 1,940 schedules that compute step 0. Each is fitted on calibration
samples and scored on held-out ones, all with the same forecaster and the same fit, so the optimum is the
best that any choice of steps could have done on these very samples. OUT keeps the scores and the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import BATCH, CALIBRATION_PROMPTS, Setting
from scipy.stats import spearmanr

import otcache
from otcache.calibration.recipe import Recipe
from otcache.calibration.stages import gains
from otcache.running import choose
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import Evaluator, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.trajectory import Trajectory
from otcache_core.transport import interpolate
from otcache_diffusers import demo
from otcache_solvers.costs.displacement import Displacement
from otcache_solvers.costs.gram import ForecastCosts

N, BUDGETS = 16, (2, 3, 4, 5)
HELD_OUT = 16
FORECASTERS = ("fitted", "reuse")
Objective = Callable[[Schedule], float]


class Enumeration:
    """Every schedule of one setting, with its errors."""

    def __init__(self, setting: Setting, out: Path) -> None:
        self.setting = setting
        self._errors = out / f"errors-{setting.guidance}"
        self._errors.mkdir(parents=True, exist_ok=True)
        self._folder = out / f"calibration-{setting.guidance}"
        self._pipe = demo.load()
        self._registry = Registry()
        self._probe = choose(self._registry, "probes", self._pipe)
        roles = demo.prompts()
        self._calibration = [text for text, _ in roles["calibration"]][:CALIBRATION_PROMPTS]
        self._held = [text for text, _ in roles["heldout"]][:HELD_OUT]
        self.schedules = {b: [_schedule(rest) for rest in _rests(b)] for b in BUDGETS}

    def calibrate(self) -> Calibration:
        """What the default policy is made from."""
        return otcache.calibrate(
            self._pipe,
            self._calibration,
            N,
            recipe=replace(Recipe(batch_size=BATCH), ladder=BUDGETS),
            directory=self._folder,
            overwrite=True,
            progress=False,
            **self.setting.call,
        )

    def measure(self, budget: int) -> None:
        """Fit and score every schedule of a budget, unless OUT has it."""
        plain = self.schedules[budget]
        if all(self._path(name, budget).exists() for name in FORECASTERS):
            return
        fitted = list(self._fitting.evaluate(plain, objective="rmse", fit=True).schedules)
        for name, asked in zip(FORECASTERS, (fitted, plain), strict=True):
            found = self._scoring.evaluate(asked, objective="rmse").errors.mean(1)
            np.save(self._path(name, budget), found)
            print(
                f"{self.setting.guidance} {name} B = {budget}: best {found.min():.5f}", flush=True
            )

    def errors(self) -> dict[str, NDArray[np.float64]]:
        """``forecaster-budget`` to the mean held-out RMSE of every schedule."""
        pairs = [(name, b) for name in FORECASTERS for b in BUDGETS]
        return {f"{name}-{b}": np.load(self._path(name, b)) for name, b in pairs}

    def _path(self, forecaster: str, budget: int) -> Path:
        return self._errors / f"{forecaster}-{budget}.npy"

    @cached_property
    def _fitting(self) -> Evaluator:
        return self._evaluator(self._calibration, seed=0)[1]

    @cached_property
    def _scoring(self) -> Evaluator:
        return self._evaluator(self._held, seed=1000)[1]

    def objectives(self, calibration: Calibration) -> dict[str, Objective]:
        """What a planner could minimise without running the schedule, on calibration samples."""
        runs, evaluator = self._evaluator(self._calibration, seed=0)
        vectors = Displacement().displacements(runs, evaluator)
        mean_cache = self._registry.create("cost_models", "mean-velocity").measure(runs).costs
        w = vectors.weights()
        growth = gains(calibration.span_costs, calibration.gram, calibration.grid)
        second = ForecastCosts(calibration.gram, calibration.grid, growth, 1e-4).table()
        return {
            "sum of w": lambda s: float(_along(s, w).sum()),
            "max of w, then the next": lambda s: _lexicographic(_along(s, w)),
            "sum of w^4": lambda s: float((_along(s, w) ** 4).sum()),
            "MeanCache's sum of E^4": lambda s: float((_along(s, mean_cache) ** 4).sum()),
            "norm of the vector sum": lambda s: vectors.error(s.computed),
            "second-order, with gains": lambda s: _second_order(s, second),
        }

    def _evaluator(self, prompts: list[str], seed: int) -> tuple[list[Trajectory], Evaluator]:
        seeds = (seed,) * len(prompts)
        request = SampleRequest(tuple(prompts), seeds, N, self.setting.call, BATCH)
        runs = list(self._probe.record(self._pipe, request))
        return runs, self._probe.evaluator(self._pipe, request, runs)


def _rests(budget: int) -> list[tuple[int, ...]]:
    return list(combinations(range(1, N), budget - 1))


def _schedule(rest: tuple[int, ...]) -> Schedule:
    return Schedule(num_steps=N, computed=(0, *rest))


def _along(schedule: Schedule, costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The costs of the schedule's spans."""
    return costs[list(schedule.computed), [*schedule.computed[1:], N]]


def _lexicographic(costs: NDArray[np.float64]) -> float:
    """One number that sorts as the sorted costs do, to some ten digits."""
    return float(np.sort(costs)[::-1] @ 1e-5 ** np.arange(len(costs)))


def _second_order(schedule: Schedule, table: NDArray[np.float64]) -> float:
    steps = (*schedule.computed, N)
    before = (0, *steps)
    return float(sum(table[p, k, j] for p, k, j in zip(before, steps, steps[1:], strict=False)))


def table(enumeration: Enumeration) -> list[str]:
    """Chosen error over optimum, rank and Spearman, a row a way to choose."""
    calibration = enumeration.calibrate()
    policy, errors = otcache.plan(calibration), enumeration.errors()
    objectives = enumeration.objectives(calibration)
    columns = " | ".join(f"B = {b}" for b in BUDGETS)
    lines = [f"## N = {N}, {enumeration.setting.guidance}", ""]
    for forecaster in FORECASTERS:
        lines += [f"| {forecaster} forecasts | {columns} |", "|---|" + "--:|" * len(BUDGETS)]
        best = {b: errors[f"{forecaster}-{b}"].min() for b in BUDGETS}
        lines.append("| optimum, RMSE | " + " | ".join(f"{best[b]:.5f}" for b in BUDGETS) + " |")

        def cell(budget: int, index: int, rho: float | None = None) -> str:
            scores = errors[f"{forecaster}-{budget}"]  # noqa: B023  # used before the loop goes on
            rank = int((scores < scores[index]).sum())
            text = f"{scores[index] / scores.min():.3f}, rank {rank}"
            return text if rho is None else f"{text}, {rho:.3f}"

        for name, objective in objectives.items():
            cells = []
            for b in BUDGETS:
                values = np.array([objective(s) for s in enumeration.schedules[b]])
                rho = float(spearmanr(values, errors[f"{forecaster}-{b}"]).statistic)
                cells.append(cell(b, int(values.argmin()), rho))
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        plain = {b: [s.computed for s in enumeration.schedules[b]] for b in BUDGETS}
        even = {b: tuple(m * N // b for m in range(b)) for b in BUDGETS}
        cells = [cell(b, plain[b].index(even[b])) for b in BUDGETS]
        lines.append("| uniform | " + " | ".join(cells) + " |")
        nearest = {b: interpolate(policy.anchor, policy.reference, b).computed for b in BUDGETS}
        cells = [cell(b, plain[b].index(nearest[b])) for b in BUDGETS]
        lines.append("| interpolation, nearest rounding | " + " | ".join(cells) + " |")
        chosen = {b: plain[b].index(policy.schedule(b).computed) for b in BUDGETS}
        cells = [cell(b, chosen[b]) for b in BUDGETS]
        lines.append("| **default policy** | " + " | ".join(cells) + " |")
        regret = {b: float(errors[f"{forecaster}-{b}"][chosen[b]] / best[b]) for b in BUDGETS}
        lines += ["", verdict(regret, policy.anchor.budget, policy.reference.budget), ""]
    return lines


def verdict(regret: dict[int, float], anchor: int, reference: int) -> str:
    """The means over the budgets that are interpolated, and over all that are not searched."""
    unsearched = [b for b in regret if b != anchor]
    between = [b for b in unsearched if b != reference]
    mean, mean_all = (np.mean([regret[b] for b in budgets]) for budgets in (between, unsearched))
    return (
        f"At B = {', '.join(map(str, between))} the default interpolates (anchor {anchor}, reference "
        f"{reference}) and keeps the best, by error on the calibration samples, of a few roundings of the "
        f"interpolated steps and of its two plans: mean of chosen over optimum there **{mean:.3f}**. The "
        f"reference is the better of the two plans, neither interpolated nor searched; with it, over all "
        f"budgets that are not searched, the mean is **{mean_all:.3f}**."
    )


def main() -> None:
    """Enumerate both settings and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    text = [
        "# Regret",
        "",
        f"Made by `nox -s bench -- regret OUT`: the demo pipeline at N = {N}, every schedule of B = "
        f"{BUDGETS[0]} .. {BUDGETS[-1]} fitted on {CALIBRATION_PROMPTS} calibration samples and scored on "
        f"{HELD_OUT} held-out ones (RMSE of decoded pictures, mean). A cell: error of the schedule that the "
        "row chooses over the optimum, how many schedules are better, Spearman correlation of the row's "
        "objective with the error over all schedules. w is the size of a span's displacement under reuse. "
        "Neither the optimum nor its budget is known to any row; it is picked on the held-out samples "
        "themselves.",
        "",
    ]
    for guided in (False, True):
        enumeration = Enumeration(Setting(N, guided), out)
        for budget in BUDGETS:
            enumeration.measure(budget)
        text += table(enumeration)
        (out / "regret.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
