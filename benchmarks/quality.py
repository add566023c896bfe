"""Held-out quality of the default policy beside its rivals: ``python benchmarks/quality.py OUT``.

The demo pipeline with and without guidance, at each step count; RMSE of decoded pictures in [0, 1]
against the full run, LPIPS, and RMSE against a 500-step run of the same ODE. All tuning is on
calibration prompts. OUT keeps calibrations and finished cells, so an interrupted run goes on;
OUT/quality.md is the table.

Rivals: the same pipeline on fewer steps (Euler, two-step Adams-Bashforth, DPM-Solver++(2M), UniPC) on
the same family of grids; on the full grid with steps skipped: uniform with reuse and with linear
extrapolation, the LeMiCa rule on exact outcome costs of two samples, and a search (Optuna, then a
climb) of reuse schedules on the true final-latent error, at each single budget with as many evaluations
as the whole calibration of otcache took for all of them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fewer_steps import scheduler
from numpy.typing import NDArray

import otcache
from otcache.demo.methods import outcome_costs
from otcache.recipe import Recipe
from otcache.statistics import mean_interval, paired_ratio
from otcache.targets import choose
from otcache_core import Schedule, ScheduleProblem
from otcache_core.calibration import Calibration
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_diffusers import demo

SHARES = (0.1, 0.13, 0.17, 0.2, 0.27, 0.33, 0.5)
LEMICA_PROMPTS = 2
SHOWN_ONLY = 0.1  # stands in the table, counts in no mean
FEWER = ("euler", "adams-bashforth", "dpm++", "unipc")
REFERENCE_STEPS = 500
OURS = "otcache"
Pictures = NDArray[np.floating]


@dataclass(frozen=True)
class Setting:
    """One of the tables."""

    num_steps: int
    guided: bool

    @property
    def name(self) -> str:
        """For files and headings."""
        return f"N = {self.num_steps}, {'guided' if self.guided else 'unguided'}"

    @property
    def call(self) -> dict[str, Any]:
        """Arguments of the pipeline call."""
        if self.guided:
            return dict(demo.CALL)
        left_out = ("true_cfg_scale", "negative_prompt")
        return {name: value for name, value in demo.CALL.items() if name not in left_out}

    @property
    def budgets(self) -> tuple[int, ...]:
        """B of each share."""
        return tuple(round(share * self.num_steps) for share in SHARES)


class Bench:
    """One setting: the calibration, the rivals, the held-out samples."""

    def __init__(self, setting: Setting, out: Path, samples: int) -> None:
        self.setting, self._registry = setting, Registry()
        self._out = out / setting.name.replace(" = ", "").replace(", ", "-")
        self._out.mkdir(parents=True, exist_ok=True)
        self._pipe = demo.load()
        self._own = self._pipe.scheduler
        self._probe = choose(self._registry, "probes", self._pipe)
        roles = demo.prompts()
        self._calibration_prompts = [text for text, _ in roles["calibration"]][:8]
        held = [text for text, _ in roles["heldout"]]
        self._held = held[:: max(1, len(held) // samples)][:samples]
        self._metrics = {name: self._registry.create("metrics", name) for name in ("rmse", "lpips")}
        self._kept: dict[str, Pictures] = {}

    def calibrate(self) -> Calibration:
        """otcache's own measurement."""
        return otcache.calibrate(
            self._pipe,
            self._calibration_prompts,
            self.setting.num_steps,
            recipe=replace(Recipe(batch_size=16), ladder=self.setting.budgets[1:]),
            directory=self._out / "calibration",
            overwrite=True,
            **self.setting.call,
        )

    def run(self, skip: Sequence[str]) -> dict[str, Any]:
        """Every cell: method, budget, values of each metric a sample."""
        path = self._out / "cells.json"
        done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        calibration = self.calibrate()
        done["calibration"] = dict(calibration.nfe)
        methods = {k: v for k, v in self._methods(calibration).items() if k not in skip}
        for name, pictures in methods.items():
            for budget in self.setting.budgets:
                key = f"{name}|{budget}"
                if key not in done:
                    done[key] = self._measure(pictures(budget))
                    path.write_text(json.dumps(done))
                    print(
                        f"{self.setting.name}  {key}  {np.mean(done[key]['rmse']):.5f}", flush=True
                    )
        return done

    def _methods(self, calibration: Calibration) -> dict[str, Callable[[int], Pictures]]:
        n, make = self.setting.num_steps, self._registry.create
        uniform, lemica = make("solvers", "uniform"), make("solvers", "lexicographic")
        policy = otcache.plan(calibration)
        request = self._request(n, self._calibration_prompts[:LEMICA_PROMPTS], 0)
        path = self._out / "lemica.npy"
        if not path.exists():
            nothing = lambda done, total: None  # noqa: E731  # a callback of two arguments
            found = outcome_costs(self._probe, self._pipe, request, self._registry, nothing)
            np.save(path, found)
        costs = np.load(path)
        allowance = sum(calibration.nfe.values())

        def even(budget: int) -> Schedule:
            return uniform.solve(ScheduleProblem(n, budget)).schedule

        def cached(schedule: Schedule) -> Pictures:
            with otcache.accelerate(self._pipe, schedule):
                return self._sample(n)

        def searched(budget: int) -> Pictures:
            request = self._request(n, self._calibration_prompts, 0)
            recorded = list(self._probe.record(self._pipe, request))
            evaluator = self._probe.evaluator(self._pipe, request, recorded)
            trials = max(2, int(allowance / (budget * len(recorded))))
            search = make(
                "solvers",
                "anchor-search",
                max_trials=max(1, trials // 3),
                climb_trials=trials - max(1, trials // 3),
                objective="latent-rmse",
                fit=False,
                warm=[lemica.solve(ScheduleProblem(n, budget, costs=costs)).schedule],
            )
            return cached(search.solve(ScheduleProblem(n, budget, evaluator=evaluator)).schedule)

        methods: dict[str, Callable[[int], Pictures]] = {
            f"fewer steps, {name}": lambda budget, name=name: self._fewer(name, budget)
            for name in FEWER
        }
        methods["uniform, reuse"] = lambda budget: cached(even(budget))
        methods["uniform, linear"] = lambda budget: cached(
            Schedule(num_steps=n, computed=even(budget).computed, forecaster="linear")
        )
        methods["LeMiCa rule"] = lambda budget: cached(
            lemica.solve(ScheduleProblem(n, budget, costs=costs)).schedule
        )
        methods["searched, reuse"] = searched
        methods[OURS] = lambda budget: cached(policy.schedule(budget))
        return methods

    def _fewer(self, name: str, budget: int) -> Pictures:
        self._pipe.scheduler = scheduler(name, self._own)
        try:
            return self._sample(budget)
        finally:
            self._pipe.scheduler = self._own

    def _request(self, steps: int, prompts: list[str], seed: int) -> SampleRequest:
        return SampleRequest(tuple(prompts), (seed,) * len(prompts), steps, self.setting.call, 16)

    def _sample(self, steps: int) -> Pictures:
        parts = [self._held[at : at + 16] for at in range(0, len(self._held), 16)]
        made = [self._probe.sample(self._pipe, self._request(steps, part, 1000)) for part in parts]
        return np.concatenate(made)

    def _reference(self, steps: int) -> Pictures:
        """Pictures of a plain run, kept on disk: the full run, and the ODE's own answer."""
        path = self._out / f"plain-{steps}.npy"
        if not path.exists():
            np.save(path, self._sample(steps))
        return np.load(path)

    def _measure(self, pictures: Pictures) -> dict[str, list[float]]:
        full = self._reference(self.setting.num_steps)
        values = {name: metric(pictures, full) for name, metric in self._metrics.items()}
        values["ode"] = self._metrics["rmse"](pictures, self._reference(REFERENCE_STEPS))
        return {name: [float(x) for x in found] for name, found in values.items()}


def table(setting: Setting, cells: dict[str, Any], metric: str) -> list[str]:
    """Methods by budgets, mean and half of the 95 % bootstrap interval over prompts."""
    methods = complete(setting, cells)
    head = " | ".join(f"B = {b} ({b / setting.num_steps:.2f})" for b in setting.budgets)
    lines = [f"| {metric} | {head} |", "|---|" + "--:|" * len(setting.budgets)]
    for name in methods:
        means = [mean_interval(cells[f"{name}|{b}"][metric]) for b in setting.budgets]
        figures = [f"{m.mean:.5f} ±{m.half:.5f}".replace("0.", ".") for m in means]
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    if metric == "rmse":
        ratios = [ratio(setting, cells, b) for b in setting.budgets]
        figures = [f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]" for _, r in ratios]
        lines.append("| **otcache / best rival** | " + " | ".join(figures) + " |")
        lines.append("| best rival | " + " | ".join(name for name, _ in ratios) + " |")
    return [*lines, ""]


def complete(setting: Setting, cells: dict[str, Any]) -> list[str]:
    """The methods that were run at every budget."""
    names = dict.fromkeys(key.split("|")[0] for key in cells if "|" in key)
    return [name for name in names if all(f"{name}|{b}" in cells for b in setting.budgets)]


def ratio(setting: Setting, cells: dict[str, Any], budget: int) -> tuple[str, Any]:
    """The best rival by mean RMSE, and otcache's paired ratio to it."""
    rivals = {
        name: cells[f"{name}|{budget}"]["rmse"] for name in complete(setting, cells) if name != OURS
    }
    best = min(rivals, key=lambda name: np.mean(rivals[name]))
    return best, paired_ratio(cells[f"{OURS}|{budget}"]["rmse"], rivals[best])


def summary(setting: Setting, cells: dict[str, Any], samples: int) -> list[str]:
    """The figures the project promises, from one table."""
    found = {
        b: ratio(setting, cells, b)[1].mean
        for b in setting.budgets
        if b > SHOWN_ONLY * setting.num_steps
    }
    upper = [r for b, r in found.items() if b >= 0.195 * setting.num_steps]

    def mean(values: list[float]) -> float:
        return math.exp(sum(map(math.log, values)) / len(values))

    runs = {stage: nfe / setting.num_steps / samples for stage, nfe in cells["calibration"].items()}
    price = ", ".join(f"{stage} {value:.1f}" for stage, value in runs.items())
    return [
        f"Geometric mean of the ratios over budgets {mean(list(found.values())):.2f} (B/N >= 0.2: "
        f"{mean(upper):.2f}; worst {max(found.values()):.2f}). Calibration in full runs a prompt: "
        f"{price}; {sum(runs.values()):.1f} in all.",
        "",
    ]


def main() -> None:
    """Run every setting and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[30, 50])
    parser.add_argument("--guidance", choices=("on", "off", "both"), default="both")
    parser.add_argument("--samples", type=int, default=16, help="held-out prompts")
    parser.add_argument("--skip", nargs="*", default=[], help="methods to leave out")
    asked = parser.parse_args()
    guided = {"on": [True], "off": [False], "both": [True, False]}[asked.guidance]
    text = [
        "# Quality",
        "",
        "Made by `nox -s bench -- quality OUT` on two CPU cores: the demo pipeline, held-out prompts, "
        f"{asked.samples} of them with one seed. `rmse` and `lpips` are against the full run, `ode` is "
        f"RMSE against a {REFERENCE_STEPS}-step run; mean and half of the 95 % bootstrap interval over "
        "prompts.",
        "",
        "All *fewer steps* samplers visit the pipeline's own grid of B steps. *searched, reuse* is "
        "Optuna and a climb on the true final-latent error, at each budget with the evaluations that "
        "otcache's whole calibration took for all budgets. The budget at B/N = 0.1 is shown and counts "
        "in no mean. Not in the table yet: MeanCache, Taylor, state-dependent DP, a Fréchet distance.",
        "",
    ]
    for setting in (Setting(n, g) for n in asked.steps for g in guided):
        cells = Bench(setting, asked.out, asked.samples).run(asked.skip)
        text += [f"## {setting.name}", "", *summary(setting, cells, 8)]
        for metric in ("rmse", "lpips", "ode"):
            text += table(setting, cells, metric)
        (asked.out / "quality.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
