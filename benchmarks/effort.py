"""What a calibration costs and brings, by effort: ``python benchmarks/effort.py OUT``.

RMSE of held-out samples against the full run, and full runs spent: without calibration, and by a quick, a
standard and a thorough one. The targets, samples and finished cells are those of ``instant`` in the same OUT.
A quick calibration is one for each budget.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import instant
import numpy as np
from demo_runs import head, interval, mean_cell, parser, row, write
from instant import CALIBRATED, OURS, Bench, Errors, geometric

import otcache
from otcache.calibration.efforts import EFFORTS
from otcache.report.statistics import paired_ratio

QUICK, THOROUGH = "otcache, quick", "otcache, thorough"
METHODS = {
    OURS: "none",
    QUICK: "quick",
    CALIBRATED: "standard",
    THOROUGH: "thorough",
}
HEAD = [
    "# What a calibration costs and brings",
    "",
    "Made by `nox -s bench -- effort OUT` on two CPU cores: RMSE on held-out samples against the full",
    "run (of a seed for each prompt), mean and half of its 95 % interval, and full runs of one sample that",
    "the calibration took; a quick one is made for each budget by itself, from two prompts, the others from",
    "eight.",
    "",
]


class EffortBench(Bench):
    """A target of ``instant`` with the efforts; ``runs`` of each method are kept beside its errors."""

    def _found(self, method: str, budget: int, full: Any) -> Errors:
        if method == QUICK:
            made = self._quick(budget)
        elif method == THOROUGH:
            recipe = replace(EFFORTS["thorough"], batch_size=16)
            made = self.runs.calibrate(self._folder / "calibration", recipe)
        elif method == CALIBRATED:
            made = self.calibration
        else:
            return super()._found(method, budget, full)
        self._spent(method, budget).write_text(json.dumps(sum(made.nfe.values()) / made.num_steps))
        return self.runs.errors(otcache.plan(made).schedule(budget))

    def _quick(self, budget: int) -> otcache.Calibration:
        recipe = replace(EFFORTS["quick"], ladder=(budget,))
        return self.runs.calibrate(self._folder / f"quick-{budget}", recipe)

    def full_runs(self, method: str, budget: int) -> float:
        """Return full runs of a sample that a calibration took."""
        path = self._spent(method, budget)
        if method == CALIBRATED and not path.exists():
            made = self.calibration
            path.write_text(json.dumps(sum(made.nfe.values()) / made.num_steps))
        return float(json.loads(path.read_text())) if path.exists() else 0.0

    def _spent(self, method: str, budget: int) -> Any:
        return self._folder / f"cost-{METHODS[method]}-{budget}.json"


def block(bench: EffortBench, methods: list[str]) -> tuple[list[str], dict[str, list[float]]]:
    """Write the table of a target, and return the ratios of quick ones to standard ones and to none."""
    budgets = bench.target.budgets
    cells = {m: {b: bench.errors(m, b) for b in budgets} for m in methods}
    share = [f"B = {b} ({b / bench.target.num_steps:.2f})" for b in budgets]
    lines = [f"## {bench.target.name}", "", *head(("effort",), [*share, "full runs"])]
    for method, rows in cells.items():
        costs = sorted({round(bench.full_runs(method, b)) for b in budgets})
        spent = f"{costs[0]}" if len(costs) == 1 else f"{costs[0]} to {costs[-1]}"
        lines.append(row(METHODS[method], *(mean_cell(rows[b]) for b in budgets), spent))
    ratios: dict[str, list[float]] = {}
    for other in (CALIBRATED, OURS):
        if other in cells:
            pairs = [paired_ratio(cells[QUICK][b], cells[other][b]) for b in budgets]
            text = f"quick / {METHODS[other]}, paired"
            lines.append(row(text, *(interval(pair) for pair in pairs), ""))
            means = [float(cells[QUICK][b].mean() / cells[other][b].mean()) for b in budgets]
            ratios[other] = means
            lines.append(
                row(f"the same, of means: {geometric(means):.2f}", *(f"{r:.2f}" for r in means), "")
            )
    return [*lines, ""], ratios


def main() -> None:
    """Measure every target and write the page."""
    command = parser(__doc__, samples=16)
    command.add_argument(
        "--only", nargs="*", default=[""], help="targets with one of these in their name"
    )
    command.add_argument("--without", nargs="*", default=[], help="efforts that are not measured")
    options = command.parse_args()
    methods = [m for m, name in METHODS.items() if name not in options.without]
    text, rows = [], []
    every: dict[str, list[float]] = {}
    for target in instant.targets(options.samples):
        if not any(part in target.name for part in options.only):
            continue
        lines, ratios = block(EffortBench(target, options.out), methods)
        text += lines
        rows.append(row(target.name, *(f"{geometric(r):.2f}" for r in ratios.values())))
        for other, found in ratios.items():
            every[other] = every.get(other, []) + found
    columns = [f"quick / {METHODS[other]}" for other in every]
    total = row("**all**", *(f"**{np.exp(np.mean(np.log(r))):.2f}**" for r in every.values()))
    if options.without:
        text.insert(0, f"Not measured here: {', '.join(options.without)}.\n")
    table = [*head(("geometric mean over budgets",), columns), *rows, total, ""]
    write(options.out / "effort.md", [*HEAD, *table, *text])


if __name__ == "__main__":
    main()
