"""Quality with bfloat16 weights beside float32: ``python benchmarks/bf16.py OUT``.

One policy of the demo pipeline, calibrated in float32, runs held-out prompts at each precision; RMSE of
decoded images in [0, 1] against the full run of the same precision. The calibration in OUT is kept, so an
interrupted run goes on; OUT/bf16.md is the table of docs/bf16.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from demo_runs import DemoRuns, Images, head, interval, parser, rmse, row, write
from numpy.typing import NDArray

import otcache
from otcache.report.statistics import mean_interval, paired_difference
from otcache_diffusers import demo

N, BUDGETS, BATCH = 30, (4, 6, 8, 10, 15), 8
Errors = dict[str, dict[int, NDArray[np.float64]]]
#: Weights of bfloat16 values with arithmetic in float32; and all in bfloat16, as most run large models.
PRECISIONS: dict[str, Callable[[Any], Any]] = {
    "float32": lambda pipe: pipe,
    "bf16 weights": lambda pipe: pipe.to(torch.bfloat16).to(torch.float32),
    "bf16 throughout": lambda pipe: pipe.to(torch.bfloat16),
}


def table(own: Errors, true: Errors) -> list[str]:
    """Write one line per budget and precision.

    Args:
        own: RMSE a prompt against the full run of the same precision, by precision and budget.
        true: against the float32 full run; at budget N that of the full run itself.
    """
    columns = ("B", "precision", "RMSE to its own full run", "paired difference to float32")
    lines = head((*columns, "inside float32's interval", "RMSE to the float32 full run"), ())
    for budget in BUDGETS:
        for name in PRECISIONS:
            mine, base = own[name][budget], own["float32"][budget]
            m, reference = mean_interval(mine), mean_interval(base)
            inside = "yes" if reference.low <= m.mean <= reference.high else "no"
            change = interval(paired_difference(mine, base), "+.5f")
            compared = ("", "") if name == "float32" else (change, inside)
            against_full = interval(mean_interval(true[name][budget]), ".5f")
            lines.append(row(str(budget), name, interval(m, ".5f"), *compared, against_full))
    full = {name: interval(mean_interval(true[name][N]), ".5f") for name in PRECISIONS}
    return [*lines, *(row(str(N), name, "0", "", "", cell) for name, cell in full.items())]


def main() -> None:
    """Calibrate once, run every precision, write the table."""
    options = parser(__doc__, samples=24).parse_args()
    policy = otcache.plan(DemoRuns(N, batch=BATCH).calibrate(options.out / "calibration"))
    own: Errors = {}
    true: Errors = {}
    exact: Images | None = None
    for name, precision in PRECISIONS.items():
        runs = DemoRuns(N, pipe=precision(demo.load()), counts=(0, options.samples), batch=BATCH)
        exact = runs.full if exact is None else exact
        images = {b: runs.accelerated(policy.schedule(b)) for b in BUDGETS}
        own[name] = {b: rmse(made, runs.full) for b, made in images.items()}
        true[name] = {b: rmse(made, exact) for b, made in {**images, N: runs.full}.items()}
    write(options.out / "bf16.md", table(own, true))


if __name__ == "__main__":
    main()
