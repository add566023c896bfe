"""Held-out quality of the default policy beside other methods: ``python benchmarks/quality.py OUT``.

The demo pipeline with and without guidance, at each step count; RMSE of decoded images in [0, 1] against the
full run, LPIPS, RMSE against a 500-step run of the same ODE, and a Fréchet distance to data. All tuning is on
calibration prompts. OUT keeps calibrations and the images of finished cells, so an interrupted run goes on;
OUT/quality.md has the tables of docs/quality.md.

Baselines: the same pipeline on fewer steps (Euler, two-step Adams-Bashforth, DPM-Solver++(2M), UniPC) on the
same family of grids; on the full grid with steps skipped: the rules that ``otcache compare`` knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from demo_runs import DemoRuns, Images, call_of, head, interval, mean_cell, parser, row, write

import otcache
from otcache.calibration.recipe import Recipe
from otcache.comparison import baselines
from otcache.comparison.scheduled import Tuning
from otcache.report.statistics import paired_ratio
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_diffusers.baselines.fewer_steps import SAMPLERS
from otcache_diffusers.metrics.frechet import Frechet

SHARES = (0.1, 0.13, 0.17, 0.2, 0.27, 0.33, 0.5)
SHOWN_ONLY = 0.1  # in the table, but in no mean
FEWER = {"euler": "euler", "adams-bashforth": "adams-bashforth", "dpm++": "dpmpp", "unipc": "unipc"}
OURS, REFINED = "otcache", "otcache, refined"
SEARCHED = "BudCache-style"
SEARCHED_LONGER = f"{SEARCHED}, allowance of the refined"
REFERENCE_STEPS = 500
Cells = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Setting:
    """One of the tables."""

    num_steps: int
    guided: bool

    @property
    def name(self) -> str:
        """For headings."""
        return f"N = {self.num_steps}, {self.guidance}"

    @property
    def guidance(self) -> str:
        """In one word."""
        return "guided" if self.guided else "unguided"

    @property
    def budgets(self) -> tuple[int, ...]:
        """B of each share."""
        return tuple(round(share * self.num_steps) for share in SHARES)

    @property
    def counted(self) -> tuple[int, ...]:
        """The budgets that count in means."""
        return tuple(b for b in self.budgets if b > SHOWN_ONLY * self.num_steps)


#: Baselines that skip steps of the full grid, of the full runs that a search may spend.
RULES: dict[str, Callable[[float], baselines.ScheduledBaseline]] = {
    "uniform, reuse": lambda _: baselines.UniformSteps("reuse"),
    "uniform, linear": lambda _: baselines.UniformSteps("linear"),
    "Taylor": lambda _: baselines.UniformTaylor(),
    "LeMiCa rule": lambda _: baselines.LeMiCa(),
    "MeanCache, released rule": lambda _: baselines.MeanCache(),
    "state-DP": lambda _: baselines.StateDP(),
    SEARCHED: baselines.SimulatedAnnealing,
}


class Schedules:
    """Schedules of the baselines that skip steps of the full grid.

    Args:
        runs: the demo.
        folder: keeps what was found.
        allowance: denoiser evaluations the search may spend at each budget.
        budgets: those that will be used.
    """

    def __init__(
        self, runs: DemoRuns, folder: Path, allowance: int, budgets: Sequence[int]
    ) -> None:
        prompts = runs.calibration_prompts
        request = runs.request(prompts, [0] * len(prompts))
        self._tuning, self._budgets = Tuning(runs.pipe, request, runs.registry), budgets
        self._folder = folder / "baselines"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._full_runs = allowance * len(budgets) / self._tuning.full_runs

    def schedule(self, name: str, budget: int) -> Schedule:
        """Return a method's schedule at a budget; the first call of a method finds all of them."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            rule = RULES[name](self._full_runs)
            schedules, _ = rule.schedules(self._tuning, self._budgets)
            path.write_bytes(msgspec.json.encode(schedules))
        return msgspec.json.decode(path.read_bytes(), type=dict[int, Schedule])[budget]


class Bench:
    """One setting: the calibration, the methods, the held-out samples."""

    def __init__(self, setting: Setting, out: Path, samples: int) -> None:
        self.setting, self._out = setting, out
        self.runs = DemoRuns(setting.num_steps, call_of(setting.guided), counts=(8, samples))
        self._folder = out / f"N{setting.num_steps}-{setting.guidance}"
        (self._folder / "images").mkdir(parents=True, exist_ok=True)
        create = self.runs.registry.create
        self._metrics = {name: create("metrics", name) for name in ("rmse", "lpips")}

    def calibrate(self, refine: bool) -> Calibration:
        """Calibrate; what both kinds have in common is run once."""
        recipe = Recipe(batch_size=16, refinement="gauss-newton" if refine else None)
        return self.runs.calibrate(self._folder / "calibration", recipe, overwrite=True)

    @cached_property
    def plain(self) -> Calibration:
        """The calibration without refinement."""
        return self.calibrate(refine=False)

    @cached_property
    def _baselines(self) -> Schedules:
        return self._schedules(sum(self.plain.nfe.values()), self._folder)

    @cached_property
    def _longer(self) -> Schedules:
        """Those that may spend what the refined calibration took."""
        allowance = sum(self.calibrate(refine=True).nfe.values())
        return self._schedules(allowance, self._folder / "longer")

    def _schedules(self, allowance: int, folder: Path) -> Schedules:
        return Schedules(self.runs, folder, allowance, self.setting.budgets)

    def methods(self) -> dict[str, Callable[[int], Images]]:
        """Return what makes the images of each method at a budget."""

        def cached(schedule: Callable[[int], Schedule]) -> Callable[[int], Images]:
            return lambda budget: self.runs.accelerated(schedule(budget))

        def ours(refine: bool) -> Callable[[int], Schedule]:
            return lambda b: otcache.plan(
                self.calibrate(refine) if refine else self.plain
            ).schedule(b)

        made: dict[str, Callable[[int], Images]] = {
            f"fewer steps, {name}": lambda budget, name=name: self._fewer(name, budget)
            for name in FEWER
        }
        for name in RULES:
            made[name] = cached(lambda budget, name=name: self._baselines.schedule(name, budget))
        made[SEARCHED_LONGER] = cached(lambda budget: self._longer.schedule(SEARCHED, budget))
        return made | {OURS: cached(ours(False)), REFINED: cached(ours(True))}

    def run(self, skip: Sequence[str]) -> None:
        """Make the images of every cell that is missing."""
        for name, images in self.methods().items():
            for budget in self.setting.budgets:
                path = self._path(name, budget)
                if name not in skip and not path.exists():
                    np.save(path, images(budget).astype(np.float32))
                    mean = self._metrics["rmse"](np.load(path), self._full).mean()
                    print(f"{self.setting.name}  {name}  B = {budget}  {mean:.5f}", flush=True)

    def cells(self) -> Cells:
        """Return values of each metric a sample, by ``method|budget``, of methods that are complete."""
        distance = Frechet("demo")
        found: Cells = {"full run|": {"frechet": [distance(self._full)]}}
        for name in self.methods():
            paths = {b: self._path(name, b) for b in self.setting.budgets}
            if not all(path.exists() for path in paths.values()):
                continue
            for budget, path in paths.items():
                shown = np.load(path)
                values = {k: metric(shown, self._full) for k, metric in self._metrics.items()}
                values["ode"] = self._metrics["rmse"](shown, self._ode)
                values["frechet"] = np.array([distance(shown)])
                found[f"{name}|{budget}"] = {k: v.tolist() for k, v in values.items()}
        return found

    def full_runs(self) -> dict[str, float]:
        """Return full runs a calibration prompt, by stage, refinement among them."""
        unit = self.setting.num_steps * len(self.runs.calibration_prompts)
        refined = self._path(REFINED, self.setting.budgets[0]).exists()
        stages = (self.calibrate(refine=True) if refined else self.plain).nfe
        return {stage: nfe / unit for stage, nfe in stages.items()}

    def _path(self, name: str, budget: int) -> Path:
        slug = "".join(c if c.isalnum() else "-" for c in name)
        return self._folder / "images" / f"{slug}-{budget}.npy"

    def _fewer(self, name: str, budget: int) -> Images:
        pipe = self.runs.pipe
        own = pipe.scheduler
        pipe.scheduler = SAMPLERS[FEWER[name]].scheduler(own)
        try:
            return self.runs.sample(budget)
        finally:
            pipe.scheduler = own

    @cached_property
    def _full(self) -> Images:
        return self._reference(self.setting.num_steps)

    @cached_property
    def _ode(self) -> Images:
        return self._reference(REFERENCE_STEPS)

    def _reference(self, steps: int) -> Images:
        """Return images of a plain run, kept on disk: the full run, and the many-step solution."""
        path = self._out / f"plain-{self.setting.guidance}-{steps}.npy"
        if not path.exists():
            np.save(path, self.runs.sample(steps).astype(np.float32))
        return np.load(path)


class Table:
    """The text of one setting.

    Args:
        setting: which.
        cells: as :meth:`Bench.cells` gives them.
    """

    METRICS = ("rmse", "lpips", "ode", "frechet")

    def __init__(self, setting: Setting, cells: Cells) -> None:
        self._setting, self._cells = setting, cells
        self._names = list(
            dict.fromkeys(key.split("|")[0] for key in cells if not key.endswith("|"))
        )

    def lines(self, full_runs: dict[str, float]) -> list[str]:
        """Write heading, summary and one table a metric."""
        text = [f"## {self._setting.name}", ""]
        text += [f"- {self._summary(ours)}" for ours in (OURS, REFINED) if ours in self._names]
        text += [f"- {self._cost(full_runs)}", f"- {self._iterations(full_runs)}", ""]
        for metric in self.METRICS:
            text += self._table(metric)
        return text

    def _cost(self, full_runs: dict[str, float]) -> str:
        parts = ", ".join(f"{stage} {value:.1f}" for stage, value in full_runs.items())
        refinement = full_runs.get("refinement", 0.0)
        return (
            f"Calibration for the whole ladder, in full runs a calibration prompt: "
            f"{sum(full_runs.values()) - refinement:.1f} without refinement, "
            f"{refinement:.1f} for it ({parts})."
        )

    def _iterations(self, full_runs: dict[str, float]) -> str:
        """Say how many schedules simulated annealing runs, as otcache.comparison.baselines has it."""
        n, total = self._setting.num_steps, sum(full_runs.values())
        rows = {SEARCHED: total - full_runs.get("refinement", 0.0), SEARCHED_LONGER: total}
        parts = []
        for name in (name for name in rows if name in self._names):
            counts = [max(1, min(200, int(rows[name] * n / b) // 2)) for b in self._setting.budgets]
            pairs = zip(counts, self._setting.budgets, strict=True)
            parts.append(f"{name}: " + ", ".join(f"{c} at B = {b}" for c, b in pairs))
        if not parts:
            return "No search was run."
        return f"Iterations of simulated annealing. {'; '.join(parts)}."

    def _summary(self, ours: str) -> str:
        found = {b: self._ratio(ours, b)[1].mean for b in self._setting.counted}
        upper = [r for b, r in found.items() if b >= 0.195 * self._setting.num_steps]
        return (
            f"**{ours}** / best baseline, geometric mean over budgets: "
            f"**{_geometric(list(found.values())):.2f}**; over B/N >= 0.2: {_geometric(upper):.2f}; "
            f"worst budget: {max(found.values()):.2f}."
        )

    def _ratio(self, ours: str, budget: int) -> tuple[str, Any]:
        """Find the best baseline by mean RMSE, and our paired ratio to it.

        The search with the refined allowance is compared with the refined policy alone.
        """
        others = (OURS, REFINED) if ours == REFINED else (OURS, REFINED, SEARCHED_LONGER)
        every = [name for name in self._names if name not in others]
        values = {name: self._cells[f"{name}|{budget}"]["rmse"] for name in every}
        best = min(values, key=lambda name: float(np.mean(values[name])))
        return best, paired_ratio(self._cells[f"{ours}|{budget}"]["rmse"], values[best])

    def _table(self, metric: str) -> list[str]:
        budgets = self._setting.budgets
        columns = [f"B = {b} ({b / self._setting.num_steps:.2f})" for b in budgets]
        lines = head((metric,), columns)
        for name in self._names:
            cells = [mean_cell(self._cells[f"{name}|{b}"][metric]) for b in budgets]
            lines.append(row(name, *cells))
        if metric == "frechet":
            full = mean_cell(self._cells["full run|"]["frechet"])
            lines.append(row("full run", full, *[""] * (len(budgets) - 1)))
        if metric == "rmse":
            for ours in (name for name in (OURS, REFINED) if name in self._names):
                cells = [interval(self._ratio(ours, b)[1]) for b in budgets]
                lines.append(row(f"**{ours} / best baseline**", *cells))
            lines.append(row("best baseline", *(self._ratio(OURS, b)[0] for b in budgets)))
        return [*lines, ""]


def _geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    """Run every setting and write the tables."""
    command = parser(__doc__, samples=24)
    command.add_argument("--steps", type=int, nargs="+", default=[30, 50])
    command.add_argument("--guidance", choices=("on", "off", "both"), default="both")
    command.add_argument("--skip", nargs="*", default=[], help="methods to omit")
    options = command.parse_args()
    guided = {"on": [True], "off": [False], "both": [True, False]}[options.guidance]
    text: list[str] = []
    for setting in (Setting(n, g) for n in options.steps for g in guided):
        bench = Bench(setting, options.out, options.samples)
        bench.run(options.skip)
        cells = bench.cells()
        (options.out / f"{setting.name}.json").write_text(json.dumps(cells))
        text += Table(setting, cells).lines(bench.full_runs())
        write(options.out / "quality.md", text)


if __name__ == "__main__":
    main()
