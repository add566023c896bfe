"""The default policy under samplers other than Euler: ``python benchmarks/samplers.py OUT``.

The demo pipeline (guided, N = 30) with its scheduler exchanged, calibrated anew for each; held-out RMSE of
decoded images against the full run of the same sampler, beside evenly spaced steps with reuse and the same
sampler on fewer steps. Shows whether the recurrence found in the recorded run carries the fit.
OUT/samplers.md is the table of docs/samplers.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from demo_runs import DemoRuns, head, interval, parser, rmse, row, write

import otcache
from otcache.calibration.recipe import Recipe
from otcache.report.statistics import paired_ratio
from otcache_core import Schedule
from otcache_core.transport import uniform_steps
from otcache_diffusers.baselines import fewer_steps

SAMPLERS = {"euler": "euler", "dpm++": "dpmpp", "unipc": "unipc"}
BUDGETS = (5, 8, 10, 15)


def rows(name: str, out: Path) -> list[str]:
    """Measure one line per method."""
    runs = DemoRuns()
    n = runs.num_steps
    runs.pipe.scheduler = fewer_steps.SAMPLERS[SAMPLERS[name]].scheduler(runs.pipe.scheduler)
    recipe = Recipe(batch_size=runs.batch, ladder=BUDGETS)
    policy = otcache.plan(runs.calibrate(out / name.replace("+", "p"), recipe, overwrite=True))
    errors = {
        "fewer steps": [rmse(runs.sample(b), runs.full) for b in BUDGETS],
        "uniform, reuse": [runs.errors(Schedule(n, uniform_steps(n, b))) for b in BUDGETS],
        "otcache": [runs.errors(policy.schedule(b)) for b in BUDGETS],
    }
    lines = [
        row(name, method, *(f"{e.mean():.5f}" for e in found)) for method, found in errors.items()
    ]
    *baselines, ours = errors.values()
    ratios = [
        paired_ratio(e, min(rest, key=np.mean)) for e, *rest in zip(ours, *baselines, strict=True)
    ]
    rule = policy.schedule(BUDGETS[0]).forecaster
    return [*lines, row(name, f"**otcache / best** ({rule})", *map(interval, ratios))]


def main() -> None:
    """Run every sampler and write the table."""
    out = parser(__doc__).parse_args().out
    text = head(("sampler", "method"), [f"B = {b}" for b in BUDGETS])
    for name in SAMPLERS:
        text += rows(name, out)
        write(out / "samplers.md", text)


if __name__ == "__main__":
    main()
