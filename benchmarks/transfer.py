"""A policy calibrated at one step count, used at others: ``python benchmarks/transfer.py OUT``.

The policy of N = 30 at 20 and 50 steps, beside the policy calibrated there and the rivals that need no
calibration; and the two ways to read a budget on a run of another length, by number and by share.

OUT may be the folder of the quality benchmark, whose work is then not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
from quality import OURS, Bench, Pictures, Setting

import otcache
from otcache.report.statistics import mean_interval, paired_ratio
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
LIMITS = (
    "A budget B of n steps is read as the budget B' of the policy's own N: *by number* B' = B, *by share* "
    f"B' = B N / n. The rule is by share where n > N and B/n >= {interpolation.BY_SHARE}, by number else: at "
    "small budgets it is the number of computed steps that decides where they belong, at large ones of a "
    "longer run the share of it, and on a shorter run the number at any budget. The rule was chosen on the "
    "demo model with a few held-out prompts; both readings stand below so that it can be judged.",
    "What mapping cannot do: a step count that is not the policy's own has a full run of its own, with other "
    "discretisation errors, which the strengths of the forecast do not know. So the ratio to a policy "
    "calibrated there grows with B/N, where errors are small. Beyond a factor of two in N, or above "
    "B/N = 0.3, calibrate at the step count that is used.",
)


class Transfer(Bench):
    """A bench at another step count, with the mapped policy as a further method."""

    def __init__(self, setting: Setting, out: Path, samples: int, policy: Policy) -> None:
        super().__init__(setting, out, samples)
        self._policy = policy

    def methods(self) -> dict[str, Callable[[int], Pictures]]:
        def mapped(budget: int) -> Pictures:
            fresh = msgspec.structs.replace(
                self._policy
            )  # keeps no schedule that another rule made
            with otcache.accelerate(self._pipe, fresh, budget=budget):
                return self._sample(self.setting.num_steps)

        def read(rule: Callable[[int, int, int], float]) -> Callable[[int], Pictures]:
            def pictures(budget: int) -> Pictures:
                with mock.patch.object(interpolation, "_own_budget", rule):
                    return mapped(budget)

            return pictures

        every = super().methods()
        made = {name: every[name] for name in (*FREE, OURS)} | {MAPPED: mapped}
        return made | {name: read(rule) for name, rule in READINGS.items()}


def table(bench: Transfer) -> list[str]:
    """RMSE against the full run of this step count."""
    cells, budgets = bench.cells(), sorted(set(bench.setting.budgets))

    def row(name: str) -> str:
        means = [mean_interval(cells[f"{name}|{b}"]["rmse"]) for b in budgets]
        figures = [f"{m.mean:.5f} ±{m.half:.5f}".replace("0.", ".") for m in means]
        return f"| {name} | " + " | ".join(figures) + " |"

    def ratios(title: str, rivals: tuple[str, ...]) -> str:
        figures = []
        for b in budgets:
            values = [cells[f"{name}|{b}"]["rmse"] for name in rivals]
            best = min(values, key=lambda v: float(np.mean(v)))
            r = paired_ratio(cells[f"{MAPPED}|{b}"]["rmse"], best)
            figures.append(f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]")
        return f"| **{title}** | " + " | ".join(figures) + " |"

    head = " | ".join(f"B = {b}" for b in budgets)
    names = {OURS: f"policy of N = {bench.setting.num_steps}"}
    lines = [f"## {bench.setting.name}", "", f"| rmse | {head} |", "|---|" + "--:|" * len(budgets)]
    lines += [row(name).replace(f"| {name} |", f"| {names.get(name, name)} |") for name in FREE]
    lines += [row(OURS).replace(f"| {OURS} |", f"| {names[OURS]} |"), row(MAPPED)]
    lines += [row(name) for name in READINGS]
    lines.append(ratios(f"{MAPPED} / best free rival", FREE))
    lines.append(ratios(f"{MAPPED} / {names[OURS]}", (OURS,)))
    return [*lines, ""]


def main() -> None:
    """Run both step counts with and without guidance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=24, help="held-out prompts")
    asked = parser.parse_args()
    text = [
        "# One policy, other step counts",
        "",
        f"Made by `nox -s bench -- transfer OUT`: the policy calibrated at N = {OWN_STEPS}, mapped to other "
        f"step counts by noise level, on {asked.samples} held-out prompts; RMSE of decoded pictures against "
        "the full run of the step count in the heading, mean and half of the 95 % bootstrap interval.",
        "",
        *(line for paragraph in LIMITS for line in (paragraph, "")),
    ]
    for guided in (False, True):
        own = Bench(Setting(OWN_STEPS, guided), asked.out, asked.samples)
        policy = otcache.plan(own.plain)
        for n in OTHER_STEPS:
            bench = Transfer(Setting(n, guided), asked.out, asked.samples, policy)
            bench.run([])
            text += table(bench)
            (asked.out / "transfer.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
