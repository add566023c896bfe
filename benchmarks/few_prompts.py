"""What fewer calibration prompts cost: ``python benchmarks/few_prompts.py OUT``.

Standard calibrations of both demos from eight prompts, from each half of them and from each quarter: RMSE on
held-out samples, with a seed each, at every rung, over that of the eight. OUT keeps calibrations and cells.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import instant
import numpy as np
from demo_runs import head, mean_cell, parser, row, write
from instant import Bench, Errors, Target, geometric

import otcache
from otcache.calibration.efforts import EFFORTS

ALL = 8
COUNTS = (2, 4)
#: What a calibration from so many prompts may cost.
GOALS = {2: 1.3, 4: 1.15}
HEAD = [
    "# Few calibration prompts",
    "",
    "Made by `nox -s bench -- few_prompts OUT` on two CPU cores: standard calibrations from eight prompts,",
    "from both halves of them (two seeds a prompt) and from the four quarters (four seeds). Each policy",
    "runs the held-out samples (of a seed for each prompt) at every rung; a ratio is of mean RMSE over",
    "samples and parts to that of the eight.",
    "",
]


@dataclass(frozen=True)
class Part:
    """Some of the eight prompts.

    Args:
        count: prompts.
        at: which part of that size, from 0.
    """

    count: int
    at: int

    @property
    def prompts(self) -> slice:
        """Where they are among the eight."""
        return slice(self.at * self.count, (self.at + 1) * self.count)


class FewBench(Bench):
    """A target of ``instant`` with calibrations from parts of its prompts."""

    def _found(self, method: str, budget: int, full: object) -> Errors:
        raise NotImplementedError

    def policy(self, part: Part) -> otcache.Policy:
        """Return the policy of a calibration from some of the prompts."""
        if part.count == ALL:
            return otcache.plan(self.calibration)
        folder, runs = self._folder / f"calibration-{part.count}-{part.at}", self.runs
        every = runs.calibration_prompts
        runs.calibration_prompts = every[part.prompts]
        try:
            return otcache.plan(runs.calibrate(folder, replace(EFFORTS["standard"], batch_size=16)))
        finally:
            runs.calibration_prompts = every

    @cached_property
    def rungs(self) -> list[int]:
        """The budgets of the policy from eight prompts, below N."""
        ladder = self.policy(Part(ALL, 0)).ladder
        return [s.budget for s in ladder if s.budget < self.target.num_steps]

    def at(self, part: Part) -> dict[int, Errors]:
        """Return the errors of each held-out sample at every rung; finished ones are read."""
        path = self._folder / f"few-{part.count}-{part.at}.json"
        if not path.exists():
            full, policy = self.runs.full, self.policy(part)
            assert full is not None
            found = {b: self.runs.errors(policy.schedule(b)).tolist() for b in self.rungs}
            path.write_text(json.dumps(found))
        return {int(b): np.array(e) for b, e in json.loads(path.read_text()).items()}

    def of(self, count: int) -> dict[int, Errors]:
        """Return the errors from so many prompts, mean over parts, at every rung."""
        parts = [self.at(Part(count, at)) for at in range(ALL // count)]
        return {b: np.mean([errors[b] for errors in parts], axis=0) for b in parts[0]}


def block(bench: FewBench) -> tuple[list[str], dict[int, list[float]]]:
    """Write the table of a target, and return the ratios to eight prompts by number of prompts."""
    best = bench.of(ALL)
    n = bench.target.num_steps
    lines = [
        f"## {bench.target.name}",
        "",
        *head(("prompts",), [f"B = {b} ({b / n:.2f})" for b in best]),
    ]
    ratios = {}
    rows = [row(f"{ALL}", *map(mean_cell, best.values()))]
    for count in COUNTS:
        found = bench.of(count)
        ratios[count] = [float(found[b].mean() / best[b].mean()) for b in best]
        rows += [
            row(f"{count}", *map(mean_cell, found.values())),
            row(f"{count} / {ALL}", *(f"{ratio:.2f}" for ratio in ratios[count])),
        ]
    return [*lines, *rows, ""], ratios


def summary(target: Target, ratios: dict[int, list[float]]) -> str:
    """Write a target's line."""
    cells = []
    for count in COUNTS:
        over = sum(ratio > GOALS[count] for ratio in ratios[count])
        cells += [
            f"{geometric(ratios[count]):.2f}",
            f"{max(ratios[count]):.2f}",
            f"{over} of {len(ratios[count])}",
        ]
    return row(target.name, *cells)


def main() -> None:
    """Measure both demos and write the page."""
    command = parser(__doc__, samples=16)
    wanted = ["image demo, guidance 3, N = 30", "video demo, N = 30"]
    command.add_argument("--only", nargs="*", default=wanted, help="names of targets of instant")
    options = command.parse_args()
    columns = []
    for count in COUNTS:
        columns += [f"{count} / {ALL}", "worst rung", f"rungs above {GOALS[count]}"]
    rows, text = [], []
    for target in instant.targets(options.samples):
        if target.name in options.only:
            bench = FewBench(target, Path(options.out))
            lines, ratios = block(bench)
            text += lines
            rows.append(summary(target, ratios))
    table = [*head(("geometric mean over rungs",), columns), *rows, ""]
    write(Path(options.out) / "few-prompts.md", [*HEAD, *table, *text])


if __name__ == "__main__":
    main()
