"""Whether targets are met by budgets that a policy chose: ``python benchmarks/targets.py OUT``.

Image demo (guidance 3) and video demo at N = 30, calibrated by default on eight prompts. Four targets of
each metric, the median of the calibration samples' errors at B/N = 0.13, 0.2, 0.33 and 0.5, with two
digits; a policy chooses a budget for each at q = 0.5 and 0.75. On 96 held-out pairs of a prompt and a
seed: the share of samples that meet the target at that budget, and the least budget at which a share of q
does. Calibrations and OUT are those of ``instant``; OUT keeps the errors of each budget.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import instant
import numpy as np
from demo_runs import SEED, DemoRuns, head, parser, row, write
from instant import Bench, Target
from numpy.typing import NDArray

import otcache
from otcache_core import Policy
from otcache_core.contracts import metric_values
from otcache_core.targets import error_limit

NAMES = ("image demo, guidance 3, N = 30", "video demo, N = 30")
SHARES = (0.13, 0.2, 0.33, 0.5)
QUANTILES = (0.5, 0.75)
METRICS = ("lpips", "rmse", "psnr")
PAIRS, LARGEST = 96, 20
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """What became of one target.

    Args:
        metric: of the target.
        value: of it.
        quantile: q.
        budget: that the policy chose.
        coverage: share of held-out samples that meet it there.
        least: budget at which a share of q does; None above the largest that was run.
        known: share that meets it there: above q, since budgets are whole.
    """

    metric: str
    value: float
    quantile: float
    budget: int
    coverage: float
    least: int | None
    known: float | None = None


class TargetBench:
    """A demo: its policy, and the errors of held-out pairs at every budget."""

    def __init__(self, target: Target, out: Path) -> None:
        self.target, self._bench = target, Bench(target, out)
        self._folder = out / "targets" / "".join(c if c.isalnum() else "-" for c in target.name)
        self._folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def policy(self) -> Policy:
        """The policy of the default calibration."""
        return otcache.plan(self._bench.calibration)

    @cached_property
    def runs(self) -> DemoRuns:
        """Held-out prompts, each with as many seeds as make the pairs."""
        pipe, call, prompts = self.target.make()
        held = prompts["heldout"]
        seeds = -(-PAIRS // len(held))
        pairs = [(prompt, i) for i in range(seeds) for prompt in held][:PAIRS]
        roles = {"calibration": prompts["calibration"], "heldout": [prompt for prompt, _ in pairs]}
        runs = DemoRuns(self.target.num_steps, call, pipe, (8, PAIRS), 16, roles)
        runs.held_seeds = [SEED + 7 * n + 1000 * i for n, (_, i) in enumerate(pairs)]
        return runs

    def errors(self, budget: int) -> dict[str, Floats]:
        """Return the errors of each pair by metric."""
        path = self._folder / f"{budget}.json"
        if not path.exists():
            full = self.runs.full
            made = self.runs.accelerated(self.policy.schedule(budget))
            metrics: dict[str, Any] = {
                name: self.runs.registry.create("metrics", f"otcache-diffusers/{name}")
                for name in ("lpips", "rmse")
            }
            found = {name: metric_values(m, made, full).tolist() for name, m in metrics.items()}
            path.write_text(json.dumps(found))
        return {name: np.array(values) for name, values in json.loads(path.read_text()).items()}

    def targets(self, metric: str) -> list[float]:
        """Return four targets, from what the calibration samples had."""
        values = []
        for share in SHARES:
            budget = round(share * self.target.num_steps)
            error = self.policy.expected(budget)["rmse" if metric == "psnr" else metric]
            value = -20.0 * math.log10(error) if metric == "psnr" else error
            values.append(float(f"{value:.2g}"))
        return values

    def chosen(self) -> list[Chosen]:
        """Ask the policy for every target, and look at the held-out pairs."""
        found = []
        every = {b: self.errors(b) for b in range(2, LARGEST + 1)}
        for metric in METRICS:
            for value in self.targets(metric):
                name, limit = error_limit(metric, value)
                for q in QUANTILES:
                    budget = self.policy.for_error(metric, value, quantile=q)
                    errors = every[budget] if budget in every else self.errors(budget)
                    coverage = float((errors[name] <= limit).mean())
                    least = next(
                        (b for b, e in every.items() if (e[name] <= limit).mean() >= q), None
                    )
                    known = None if least is None else float((every[least][name] <= limit).mean())
                    found.append(Chosen(metric, value, q, budget, coverage, least, known))
        return found


def block(name: str, found: list[Chosen]) -> list[str]:
    """Write the table of a demo."""
    columns = [
        "q",
        "budget chosen",
        "held-out share that meets it",
        "least budget",
        "chosen / least",
    ]
    lines = [f"## {name}", "", *head(("target",), columns)]
    for one in found:
        ratio = f"{one.budget / one.least:.2f}" if one.least else "-"
        cells = (
            f"{one.quantile:g}",
            f"{one.budget}",
            f"{one.coverage:.0%}",
            f"{one.least or '-'}",
            ratio,
        )
        lines.append(row(f"{one.metric} {one.value:g}", *cells))
    return [*lines, ""]


def summary(found: list[Chosen]) -> list[str]:
    """Write the pooled share of each metric and quantile, the worst cell, and the largest ratio."""
    columns = [
        "q",
        "pooled share",
        "at the least budgets",
        "least share of a target",
        "chosen / least, geometric mean",
        "largest",
    ]
    lines = head(("metric",), columns)
    for metric in METRICS:
        for q in QUANTILES:
            cells = [one for one in found if one.metric == metric and one.quantile == q]
            shares = [one.coverage for one in cells]
            ratios = [one.budget / one.least for one in cells if one.least]
            mean = math.exp(float(np.mean(np.log(ratios))))
            known = np.mean([one.known for one in cells if one.known is not None])
            pooled = (f"{np.mean(shares):.0%}", f"{known:.0%}")
            texts = (f"{q:g}", *pooled, f"{min(shares):.0%}", f"{mean:.2f}")
            lines.append(row(metric, *texts, f"{max(ratios):.2f}"))
    return [*lines, ""]


def main() -> None:
    """Measure both demos and write the page."""
    command = parser(__doc__)
    command.add_argument(
        "--only", nargs="*", default=[""], help="demos with one of these in their name"
    )
    options = command.parse_args()
    targets = [
        t
        for t in instant.targets(16)
        if t.name in NAMES and any(part in t.name for part in options.only)
    ]
    found = {target.name: TargetBench(target, options.out).chosen() for target in targets}
    text = [
        "# Targets",
        "",
        "Made by `nox -s bench -- targets OUT` on two CPU cores: a policy of eight calibration samples was",
        "asked for the least budget that meets a target (`policy.for_error(metric, value, quantile=q)`).",
        f"{PAIRS} held-out pairs of a prompt and a seed say what share meets it there, and what the least",
        f"budget up to {LARGEST} would have been. Targets are the calibration samples' median errors at",
        "B/N = 0.13, 0.2, 0.33 and 0.5. *At the least budgets* is the pooled share that those have:",
        "above q, since budgets are whole.",
        "",
        *summary([one for cells in found.values() for one in cells]),
    ]
    for name, cells in found.items():
        text += block(name, cells)
    write(options.out / "targets.md", text)


if __name__ == "__main__":
    main()
