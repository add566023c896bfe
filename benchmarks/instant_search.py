"""What chose the numbers of the default without calibration: ``python benchmarks/instant_search.py OUT``.

The targets of ``instant`` at N = 30, on calibration prompts with a seed each. Each row is the default with
other numbers: RMSE over the best rule without calibration, in geometric mean over B/N = 0.13 to 0.5, and at
the worst budget. OUT keeps finished cells; OUT/instant-search.md is the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import instant
import numpy as np
from demo_runs import DemoRuns, head, parser, row, write
from instant import OURS, Bench, Errors, Target

from otcache_core import uncalibrated
from otcache_core.contracts.planning import Ramp
from otcache_core.forecasters import variable_order

SEED = 100  # of the first calibration prompt
NEVER = Ramp(-1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Numbers:
    """The numbers of the default; see docs/theory.md, section 9.12.

    Args:
        start: A of 1 + A exp(-u / decay).
        decay: as above.
        end: e / (1 - u)^2.
        first: f_0 and f_1 of clamp(f_0 - f_1 q) after one output.
        later: o and m of clamp(o + c - m q) after two.
        without: the same of the branch without a prompt.
        bend: of the second order.
        held: whether order 0 of a flow holds v - x; else it holds v.
    """

    start: float = uncalibrated.START
    decay: float = uncalibrated.DECAY
    end: float = uncalibrated.END
    first: tuple[float, float] = (variable_order.FIRST[0].offset, -variable_order.FIRST[0].change)
    later: tuple[float, float] = (variable_order.LATER[0].offset, -variable_order.LATER[0].change)
    without: tuple[float, float] = (0.5, 2.0)
    bend: Ramp = variable_order.LATER[1]
    held: bool = True

    @contextmanager
    def used(self) -> Iterator[None]:
        """Make them the default meanwhile."""
        places = {
            (uncalibrated, "START"): self.start,
            (uncalibrated, "DECAY"): self.decay,
            (uncalibrated, "END"): self.end,
            (variable_order, "FIRST"): (Ramp(self.first[0], 0.0, -self.first[1]),),
            (variable_order, "LATER"): (Ramp(self.later[0], 1.0, -self.later[1]), self.bend),
            (variable_order, "LATER_WITHOUT_PROMPT"): (
                Ramp(self.without[0], 1.0, -self.without[1]),
                self.bend,
            ),
            (uncalibrated, "FLOW_FORECASTER"): uncalibrated.FORECASTERS[self.held],
        }
        before: dict[Any, Any] = {place: getattr(*place) for place in places}
        for (module, name), value in places.items():
            setattr(module, name, value)
        uncalibrated.default_steps.cache_clear()
        try:
            yield
        finally:
            for (module, name), value in before.items():
                setattr(module, name, value)
            uncalibrated.default_steps.cache_clear()


VARIANTS = {
    "the default": Numbers(),
    "order 0 holds v": Numbers(held=False),
    "0.5 + c - 2 q": Numbers(later=(0.5, 2.0)),
    "0.8 + c - 2 q": Numbers(later=(0.8, 2.0)),
    "without a prompt c - 2 q": Numbers(without=(0.0, 2.0)),
    "A = 3": Numbers(start=3.0),
    "A = 10": Numbers(start=10.0),
    "A = 40": Numbers(start=40.0),
    "decay 0.2": Numbers(decay=0.2),
    "e = 0.003": Numbers(end=0.003),
    "e = 0.03": Numbers(end=0.03),
    "c alone: 0.35 + c": Numbers(later=(0.35, 0.0), without=(0.35, 0.0)),
    "no bend": Numbers(bend=NEVER),
    "first 1.1 - 2.8 q": Numbers(first=(1.1, 2.8)),
    "linear throughout": Numbers(
        first=(1.0, 0.0), later=(2.0, 0.0), without=(2.0, 0.0), bend=NEVER
    ),
    "reuse throughout": Numbers(
        first=(0.0, 0.0), later=(-1.0, 0.0), without=(-1.0, 0.0), bend=NEVER
    ),
}


class SearchBench(Bench):
    """A target on its calibration prompts, with a method for each variant."""

    def __init__(self, target: Target, out: Path) -> None:
        super().__init__(target, out / "search")

    @cached_property
    def runs(self) -> DemoRuns:
        """The target, loaded."""
        pipe, call, prompts = self.target.make()
        count = self.target.counts[0]
        roles = {"calibration": prompts["calibration"], "heldout": prompts["calibration"]}
        runs = DemoRuns(self.target.num_steps, call, pipe, (count, count), count, roles)
        runs.held_seeds = [SEED + i for i in range(len(runs.held_prompts))]
        return runs

    def _found(self, method: str, budget: int, full: Any) -> Errors:
        if method not in VARIANTS:
            return super()._found(method, budget, full)
        with VARIANTS[method].used():
            return super()._found(OURS, budget, full)

    def ratios(self, variant: str) -> list[float]:
        """Return the error of a variant over that of the best rule, by budget."""
        return [
            float(
                self.errors(variant, b).mean()
                / min(self.errors(name, b).mean() for name in self.baselines)
            )
            for b in self.target.budgets
        ]


def main() -> None:
    """Measure every variant on every target and write the page."""
    command = parser(__doc__, samples=16)
    command.add_argument(
        "--only", nargs="*", default=[""], help="targets with one of these in their name"
    )
    options = command.parse_args()
    every = [t for t in instant.targets(options.samples) if t.num_steps == 30]
    chosen = [t for t in every if any(part in t.name for part in options.only)]
    benches = [
        SearchBench(Target(t.name, 30, t.make, (t.counts[1], t.counts[1])), options.out)
        for t in chosen
    ]
    lines = [
        "# What chose the default without calibration",
        "",
        "Made by `nox -s bench -- instant_search OUT` on two CPU cores, on calibration prompts: error over",
        "the best rule without calibration, geometric mean over budgets, and the worst budget in brackets.",
        "",
        *head(("default with",), [bench.target.name for bench in benches]),
    ]
    for variant in VARIANTS:
        cells = []
        for bench in benches:
            found = bench.ratios(variant)
            cells.append(f"{np.exp(np.mean(np.log(found))):.2f} ({max(found):.2f})")
            print(variant, bench.target.name, cells[-1], flush=True)
        lines.append(row(variant, *cells))
    write(options.out / "instant-search.md", [*lines, ""])


if __name__ == "__main__":
    main()
