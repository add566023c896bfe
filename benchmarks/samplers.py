"""The default policy under samplers other than Euler: ``python benchmarks/samplers.py OUT``.

The demo pipeline (guided, N = 30) with its scheduler exchanged, calibrated anew for each; held-out RMSE of
decoded pictures against the full run of the same sampler, beside evenly spaced steps with reuse and the
same sampler on fewer steps. Shows whether the recurrence found in the recorded run carries the fit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from quality import BATCH, CALIBRATION_PROMPTS, Setting

import otcache
from otcache.calibration.recipe import Recipe
from otcache.report.statistics import paired_ratio
from otcache.running import choose
from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_diffusers import demo
from otcache_diffusers.baselines import fewer_steps

SAMPLERS = {"euler": "euler", "dpm++": "dpmpp", "unipc": "unipc"}
BUDGETS = (5, 8, 10, 15)
HELD_OUT = 16


def rows(name: str, out: Path) -> list[str]:
    """One line a method."""
    setting, pipe, registry = Setting(30, guided=True), demo.load(), Registry()
    n, own = setting.num_steps, pipe.scheduler
    probe, rmse = choose(registry, "probes", pipe), registry.create("metrics", "rmse")
    roles = demo.prompts()
    held = tuple(text for text, _ in roles["heldout"])[:HELD_OUT]

    def sample(steps: int) -> np.ndarray:
        request = SampleRequest(held, (1000,) * len(held), steps, setting.call, BATCH)
        return probe.sample(pipe, request)

    def cached(schedule: Schedule) -> np.ndarray:
        with otcache.accelerate(pipe, schedule):
            return sample(n)

    pipe.scheduler = fewer_steps.SAMPLERS[SAMPLERS[name]].scheduler(own)
    calibration = otcache.calibrate(
        pipe,
        [text for text, _ in roles["calibration"]][:CALIBRATION_PROMPTS],
        n,
        recipe=Recipe(batch_size=BATCH, ladder=BUDGETS),
        directory=out / name.replace("+", "p"),
        overwrite=True,
        progress=False,
        **setting.call,
    )
    policy, full = otcache.plan(calibration), sample(n)
    errors = {
        "fewer steps": [rmse(sample(b), full) for b in BUDGETS],
        "uniform, reuse": [
            rmse(cached(Schedule(n, tuple(m * n // b for m in range(b)))), full) for b in BUDGETS
        ],
        "otcache": [rmse(cached(policy.schedule(b)), full) for b in BUDGETS],
    }
    lines = [
        f"| {name} | {method} | " + " | ".join(f"{e.mean():.5f}" for e in found) + " |"
        for method, found in errors.items()
    ]
    *rivals, ours = errors.values()
    ratios = [
        paired_ratio(e, min(rest, key=np.mean)) for e, *rest in zip(ours, *rivals, strict=True)
    ]
    cells = [f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in ratios]
    rule = policy.schedule(BUDGETS[0]).forecaster
    return [*lines, f"| {name} | **otcache / best** ({rule}) | " + " | ".join(cells) + " |"]


def main() -> None:
    """Run every sampler and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    head = " | ".join(f"B = {b}" for b in BUDGETS)
    text = [
        "# Other samplers",
        "",
        f"Made by `nox -s bench -- samplers OUT`: the demo pipeline, guided, N = 30, {HELD_OUT} held-out "
        "prompts; mean RMSE of decoded pictures against the full run of the same sampler, and the paired "
        "ratio with its 95 % interval. In brackets the forecaster that calibration chose: `fitted` where "
        "the sampler is a linear recurrence in states and outputs.",
        "",
        f"| sampler | method | {head} |",
        "|---|---|" + "--:|" * len(BUDGETS),
    ]
    for name in SAMPLERS:
        text += rows(name, out)
        (out / "samplers.md").write_text("\n".join([*text, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
