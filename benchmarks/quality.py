"""Held-out quality of the default policy beside its rivals: ``python benchmarks/quality.py OUT``.

The demo pipeline with and without guidance, at each step count; RMSE of decoded pictures in [0, 1]
against the full run, LPIPS, RMSE against a 500-step run of the same ODE, and a Fréchet distance to
data. All tuning is on calibration prompts. OUT keeps calibrations and the pictures of finished cells,
so an interrupted run goes on; OUT/quality.md is the table.

Rivals: the same pipeline on fewer steps (Euler, two-step Adams-Bashforth, DPM-Solver++(2M), UniPC) on
the same family of grids; on the full grid with steps skipped: those of rivals.py.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rivals import Rivals

import otcache
from otcache.calibration.recipe import Recipe
from otcache.report.statistics import mean_interval, paired_ratio
from otcache.running import choose
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_diffusers import demo
from otcache_diffusers.baselines.fewer_steps import SAMPLERS
from otcache_diffusers.metrics.frechet import Frechet

SHARES = (0.1, 0.13, 0.17, 0.2, 0.27, 0.33, 0.5)
SHOWN_ONLY = 0.1  # stands in the table, counts in no mean
FEWER = {"euler": "euler", "adams-bashforth": "adams-bashforth", "dpm++": "dpmpp", "unipc": "unipc"}
OURS, REFINED = "otcache", "otcache, refined"
SEARCHED = "BudCache-style"
SEARCHED_LONGER = f"{SEARCHED}, allowance of the refined"
REFERENCE_STEPS = 500
CALIBRATION_PROMPTS = 8
BATCH = 16
Pictures = NDArray[np.floating]
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

    @property
    def counted(self) -> tuple[int, ...]:
        """The budgets that count in means."""
        return tuple(b for b in self.budgets if b > SHOWN_ONLY * self.num_steps)


class Bench:
    """One setting: the calibration, the methods, the held-out samples."""

    def __init__(self, setting: Setting, out: Path, samples: int) -> None:
        self.setting, self._out = setting, out
        self._folder = out / f"N{setting.num_steps}-{setting.guidance}"
        (self._folder / "pictures").mkdir(parents=True, exist_ok=True)
        self._pipe = demo.load()
        self._own = self._pipe.scheduler
        registry = Registry()
        self._probe = choose(registry, "probes", self._pipe)
        roles = demo.prompts()
        self._prompts = [text for text, _ in roles["calibration"]][:CALIBRATION_PROMPTS]
        held = [text for text, _ in roles["heldout"]]
        self._held = held[:samples]
        self._metrics = {name: registry.create("metrics", name) for name in ("rmse", "lpips")}

    def calibrate(self, refine: bool) -> Calibration:
        """otcache's own measurement; what both kinds have in common is run once."""
        recipe = Recipe(batch_size=BATCH, refinement="gauss-newton" if refine else None)
        return otcache.calibrate(
            self._pipe,
            self._prompts,
            self.setting.num_steps,
            recipe=recipe,
            directory=self._folder / "calibration",
            overwrite=True,
            progress=False,
            **self.setting.call,
        )

    @cached_property
    def plain(self) -> Calibration:
        """The calibration without refinement."""
        return self.calibrate(refine=False)

    @cached_property
    def _rivals(self) -> Rivals:
        return self._rivals_with(sum(self.plain.nfe.values()), self._folder)

    @cached_property
    def _longer(self) -> Rivals:
        """Those that may spend what the refined calibration took."""
        folder = self._folder / "longer"
        folder.mkdir(exist_ok=True)
        return self._rivals_with(sum(self.calibrate(refine=True).nfe.values()), folder)

    def _rivals_with(self, allowance: int, folder: Path) -> Rivals:
        request = self._request(self.setting.num_steps, self._prompts, 0)
        return Rivals(self._pipe, request, folder, allowance, self.setting.budgets)

    def methods(self) -> dict[str, Callable[[int], Pictures]]:
        """What makes the pictures of each method at a budget."""

        def cached(schedule: Callable[[int], Schedule]) -> Callable[[int], Pictures]:
            def pictures(budget: int) -> Pictures:
                with otcache.accelerate(self._pipe, schedule(budget)):
                    return self._sample(self.setting.num_steps)

            return pictures

        def ours(refine: bool) -> Callable[[int], Schedule]:
            return lambda b: otcache.plan(
                self.calibrate(refine) if refine else self.plain
            ).schedule(b)

        made: dict[str, Callable[[int], Pictures]] = {
            f"fewer steps, {name}": lambda budget, name=name: self._fewer(name, budget)
            for name in FEWER
        }
        for name in Rivals.NAMES:
            made[name] = cached(lambda budget, name=name: self._rivals.schedule(name, budget))
        made[SEARCHED_LONGER] = cached(lambda budget: self._longer.schedule(SEARCHED, budget))
        return made | {OURS: cached(ours(False)), REFINED: cached(ours(True))}

    def run(self, skip: Sequence[str]) -> None:
        """Make the pictures of every cell that is missing."""
        for name, pictures in self.methods().items():
            for budget in self.setting.budgets:
                path = self._path(name, budget)
                if name not in skip and not path.exists():
                    np.save(path, pictures(budget).astype(np.float32))
                    rmse = self._metrics["rmse"](np.load(path), self._full)
                    print(
                        f"{self.setting.name}  {name}  B = {budget}  {rmse.mean():.5f}", flush=True
                    )

    def cells(self) -> Cells:
        """Values of each metric a sample, by ``method|budget``, of methods that are complete."""
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

    def price(self) -> dict[str, float]:
        """Full runs a calibration prompt, by stage, refinement among them."""
        unit = self.setting.num_steps * len(self._prompts)
        stages = (
            self.calibrate(refine=True).nfe
            if self._path(REFINED, self.setting.budgets[0]).exists()
            else self.plain.nfe
        )
        return {stage: nfe / unit for stage, nfe in stages.items()}

    def _path(self, name: str, budget: int) -> Path:
        slug = "".join(c if c.isalnum() else "-" for c in name)
        return self._folder / "pictures" / f"{slug}-{budget}.npy"

    def _fewer(self, name: str, budget: int) -> Pictures:
        self._pipe.scheduler = SAMPLERS[FEWER[name]].scheduler(self._own)
        try:
            return self._sample(budget)
        finally:
            self._pipe.scheduler = self._own

    def _request(self, steps: int, prompts: list[str], seed: int) -> SampleRequest:
        seeds = (seed,) * len(prompts)
        return SampleRequest(tuple(prompts), seeds, steps, self.setting.call, BATCH)

    def _sample(self, steps: int) -> Pictures:
        parts = [self._held[at : at + BATCH] for at in range(0, len(self._held), BATCH)]
        made = [self._probe.sample(self._pipe, self._request(steps, part, 1000)) for part in parts]
        return np.concatenate(made)

    @cached_property
    def _full(self) -> Pictures:
        return self._reference(self.setting.num_steps)

    @cached_property
    def _ode(self) -> Pictures:
        return self._reference(REFERENCE_STEPS)

    def _reference(self, steps: int) -> Pictures:
        """Pictures of a plain run, kept on disk: the full run, and the ODE's own answer."""
        path = self._out / f"plain-{self.setting.guidance}-{steps}.npy"
        if not path.exists():
            np.save(path, self._sample(steps).astype(np.float32))
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

    def lines(self, price: dict[str, float]) -> list[str]:
        """Heading, summary and one table a metric."""
        if OURS not in self._names:
            return [
                f"## {self._setting.name}",
                "",
                "Not measured yet: run without --tables-only.",
                "",
            ]
        text = [f"## {self._setting.name}", ""]
        text += [f"- {self._summary(ours)}" for ours in (OURS, REFINED) if ours in self._names]
        text += [f"- {self._price(price)}", f"- {self._iterations(price)}", ""]
        for metric in self.METRICS:
            text += self._table(metric)
        return text

    def _price(self, price: dict[str, float]) -> str:
        parts = ", ".join(f"{stage} {value:.1f}" for stage, value in price.items())
        refinement = price.get("refinement", 0.0)
        return (
            f"Calibration for the whole ladder, in full runs a calibration prompt: "
            f"{sum(price.values()) - refinement:.1f} without refinement, {refinement:.1f} for it ({parts})."
        )

    def _iterations(self, price: dict[str, float]) -> str:
        """How many schedules the searched rival anneals, as otcache.comparison.baselines has it."""
        n, refinement = self._setting.num_steps, price.get("refinement", 0.0)
        rows = {SEARCHED: sum(price.values()) - refinement, SEARCHED_LONGER: sum(price.values())}
        parts = []
        for name in (name for name in rows if name in self._names):
            counts = [max(1, min(200, int(rows[name] * n / b) // 2)) for b in self._setting.budgets]
            pairs = zip(counts, self._setting.budgets, strict=True)
            parts.append(f"{name}: " + ", ".join(f"{c} at B = {b}" for c, b in pairs))
        return f"Annealing iterations. {'; '.join(parts)}." if parts else "No search was run."

    def _summary(self, ours: str) -> str:
        found = {b: self._ratio(ours, b)[1].mean for b in self._setting.counted}
        upper = [r for b, r in found.items() if b >= 0.195 * self._setting.num_steps]
        return (
            f"**{ours}** / best rival, geometric mean over budgets: "
            f"**{_geometric(list(found.values())):.2f}**; over B/N >= 0.2: {_geometric(upper):.2f}; "
            f"worst budget: {max(found.values()):.2f}."
        )

    def _ratio(self, ours: str, budget: int) -> tuple[str, Any]:
        """The best rival by mean RMSE, and our paired ratio to it.

        The search with the refined allowance is a rival of the refined policy alone.
        """
        others = (OURS, REFINED) if ours == REFINED else (OURS, REFINED, SEARCHED_LONGER)
        rivals = [name for name in self._names if name not in others]
        values = {name: self._cells[f"{name}|{budget}"]["rmse"] for name in rivals}
        best = min(values, key=lambda name: float(np.mean(values[name])))
        return best, paired_ratio(self._cells[f"{ours}|{budget}"]["rmse"], values[best])

    def _table(self, metric: str) -> list[str]:
        budgets = self._setting.budgets
        head = " | ".join(f"B = {b} ({b / self._setting.num_steps:.2f})" for b in budgets)
        lines = [f"| {metric} | {head} |", "|---|" + "--:|" * len(budgets)]
        for name in self._names:
            cells = [_figure(self._cells[f"{name}|{b}"][metric]) for b in budgets]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        if metric == "frechet":
            full = _figure(self._cells["full run|"]["frechet"])
            lines.append(f"| full run | {full} |" + " |" * (len(budgets) - 1))
        if metric == "rmse":
            for ours in (name for name in (OURS, REFINED) if name in self._names):
                ratios = [self._ratio(ours, b)[1] for b in budgets]
                cells = [f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in ratios]
                lines.append(f"| **{ours} / best rival** | " + " | ".join(cells) + " |")
            best = [self._ratio(OURS, b)[0] for b in budgets]
            lines.append("| best rival | " + " | ".join(best) + " |")
        return [*lines, ""]


def _geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _figure(values: list[float]) -> str:
    """Mean and half of its interval; a single number as it is."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    m = mean_interval(values)
    return f"{m.mean:.5f} ±{m.half:.5f}".replace("0.", ".")


def preamble(samples: int, skipped: Sequence[str]) -> list[str]:
    """What a reader must know."""
    left_out = [f"Left out of this run (`--skip`): {', '.join(skipped)}.", ""] if skipped else []
    return [
        "# Quality",
        "",
        "Made by `nox -s bench -- quality OUT` on two CPU cores: the demo pipeline, "
        f"{samples} held-out prompts with one seed. `rmse` and `lpips` are against the full run, `ode` is "
        f"RMSE against a {REFERENCE_STEPS}-step run; mean and half of the 95 % bootstrap interval over "
        "prompts. `frechet` is a Fréchet distance to real pictures (otcache_diffusers.metrics.frechet says "
        "on which features; with so few pictures it compares rows and no more).",
        "",
        "Everything is tuned on calibration prompts. otcache is calibrated with no options: its ladder is "
        "the default one, and budgets between its rungs are interpolated. All *fewer steps* samplers visit "
        "the pipeline's own grid of B steps. The searched rival (*BudCache-style*) gets, at every single "
        "budget, as many evaluations as otcache's whole calibration took for all budgets, or as the refined "
        "one took where its row says so (that row is a rival of the refined policy alone). Half of the "
        "schedules it can run are annealed, at most 200 as published, and the climb has the rest; both rules "
        "are in otcache.comparison.baselines with all others. The budget at B/N = 0.1 is shown and counts in "
        "no mean.",
        "",
        *left_out,
    ]


def main() -> None:
    """Run every setting and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[30, 50])
    parser.add_argument("--guidance", choices=("on", "off", "both"), default="both")
    parser.add_argument("--samples", type=int, default=24, help="held-out prompts")
    parser.add_argument("--skip", nargs="*", default=[], help="methods to leave out")
    parser.add_argument("--tables-only", action="store_true", help="make no pictures")
    asked = parser.parse_args()
    guided = {"on": [True], "off": [False], "both": [True, False]}[asked.guidance]
    text = preamble(asked.samples, asked.skip)
    for setting in (Setting(n, g) for n in asked.steps for g in guided):
        bench = Bench(setting, asked.out, asked.samples)
        if not asked.tables_only:
            bench.run(asked.skip)
        cells = bench.cells()
        (asked.out / f"{setting.name}.json").write_text(json.dumps(cells))
        priced = bench.price() if f"{OURS}|{setting.budgets[0]}" in cells else {}
        text += Table(setting, cells).lines(priced)
        (asked.out / "quality.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
