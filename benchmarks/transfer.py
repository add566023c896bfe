"""A policy calibrated at one step count, used at others: ``python benchmarks/transfer.py OUT``.

The policy of N = 30 at 20 and 50 steps, beside the policy calibrated there and the baselines that need
no calibration; and the two ways to read a budget on a run of another length, by number and by share.
OUT/transfer.md has the tables of docs/transfer.md.

OUT may be the folder of the quality benchmark, whose work is then not done again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
from demo_runs import Images, head, interval, mean_cell, parser, row, write
from quality import OURS, Bench, Setting

import otcache
from otcache.report.statistics import paired_ratio
from otcache_core import interpolation
from otcache_core.policy import Policy

OWN_STEPS, OTHER_STEPS = 30, (20, 50)
FREE = ("fewer steps, euler", "fewer steps, adams-bashforth", "uniform, reuse", "uniform, linear")
MAPPED = f"policy of N = {OWN_STEPS}"
#: B', the budget of the policy's own run that a budget of another is read as.
READINGS: dict[str, Callable[[int, int, int], float]] = {
    f"{MAPPED}, by number": lambda budget, own, n: min(budget, own),
    f"{MAPPED}, by share": lambda budget, own, n: budget * own / n,
}


class Transfer(Bench):
    """A bench at another step count, with the mapped policy as a further method."""

    def __init__(self, setting: Setting, out: Path, samples: int, policy: Policy) -> None:
        super().__init__(setting, out, samples)
        self._policy = policy

    def methods(self) -> dict[str, Callable[[int], Images]]:
        def mapped(budget: int) -> Images:
            # A fresh one keeps no schedule that another rule made.
            fresh = msgspec.structs.replace(self._policy)
            with otcache.accelerate(self.runs.pipe, fresh, budget=budget):
                return self.runs.sample()

        def read(rule: Callable[[int, int, int], float]) -> Callable[[int], Images]:
            def images(budget: int) -> Images:
                with mock.patch.object(interpolation, "_own_budget", rule):
                    return mapped(budget)

            return images

        every = super().methods()
        made = {name: every[name] for name in (*FREE, OURS)} | {MAPPED: mapped}
        return made | {name: read(rule) for name, rule in READINGS.items()}


def table(bench: Transfer) -> list[str]:
    """RMSE against the full run of this step count."""
    cells, budgets = bench.cells(), sorted(set(bench.setting.budgets))

    def figures(title: str, name: str) -> str:
        return row(title, *(mean_cell(cells[f"{name}|{b}"]["rmse"]) for b in budgets))

    def ratios(title: str, baselines: tuple[str, ...]) -> str:
        found = []
        for b in budgets:
            values = [cells[f"{name}|{b}"]["rmse"] for name in baselines]
            best = min(values, key=lambda v: float(np.mean(v)))
            found.append(interval(paired_ratio(cells[f"{MAPPED}|{b}"]["rmse"], best)))
        return row(f"**{title}**", *found)

    own = f"policy of N = {bench.setting.num_steps}"
    lines = [f"## {bench.setting.name}", "", *head(("rmse",), [f"B = {b}" for b in budgets])]
    lines += [figures(name, name) for name in FREE]
    lines += [figures(own, OURS), *(figures(name, name) for name in (MAPPED, *READINGS))]
    lines.append(ratios(f"{MAPPED} / best free baseline", FREE))
    lines.append(ratios(f"{MAPPED} / {own}", (OURS,)))
    return [*lines, ""]


def main() -> None:
    """Run both step counts with and without guidance."""
    options = parser(__doc__, samples=24).parse_args()
    text: list[str] = []
    for guided in (False, True):
        own = Bench(Setting(OWN_STEPS, guided), options.out, options.samples)
        policy = otcache.plan(own.plain)
        for n in OTHER_STEPS:
            bench = Transfer(Setting(n, guided), options.out, options.samples, policy)
            bench.run([])
            text += table(bench)
            write(options.out / "transfer.md", text)


if __name__ == "__main__":
    main()
