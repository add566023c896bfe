"""Is otcache ever worse than uniform reuse? ``python benchmarks/never_worse.py OUT``.

At every budget from 2 to N - 1 the default policy and uniform reuse run the same held-out prompts;
RMSE against the full run. A row is the geometric mean of the paired ratio with its 95 % bootstrap
interval over prompts; where the policy *is* uniform reuse the ratio is 1 and nothing is run. Exit
status 1 if any interval lies above 1. OUT keeps the calibration and the errors of finished cells, so
an interrupted run goes on; OUT/never-worse-TARGET.md is the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import otcache
from otcache.calibration.recipe import Recipe
from otcache.report.statistics import Interval, mean_interval
from otcache.running import choose
from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_core.samples import digest
from otcache_core.transport import uniform_steps
from otcache_diffusers import demo

BATCH = 16
Values = NDArray[np.floating]


@dataclass(frozen=True)
class Target:
    """What is calibrated.

    Args:
        load: makes the pipeline or loop.
        call: arguments of every call of it.
    """

    load: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)


def _guided_loop() -> Any:
    """The loop of examples/guided_loop.py: two denoiser calls a step around the demo's transformer."""
    path = Path(__file__).parent.parent / "examples" / "guided_loop.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.guided_loop(demo.load())


#: By name. A loop is sampled as a pipeline is, by the probe of its kind: an entry is all it takes.
TARGETS = {"demo": Target(demo.load, dict(demo.CALL)), "guided-loop": Target(_guided_loop)}


class Bench:
    """One target: its policy and the held-out errors."""

    def __init__(self, name: str, steps: int, counts: tuple[int, int], out: Path) -> None:
        calibrated, held = counts
        self._call, self._steps = TARGETS[name].call, steps
        self._target = TARGETS[name].load()
        self._probe = choose(Registry(), "probes", self._target)
        roles = demo.prompts()
        self._prompts = [text for text, _ in roles["calibration"]][:calibrated]
        self._held = [text for text, _ in roles["heldout"]][:held]
        self._folder = out / f"{name}-N{steps}-{calibrated}-{held}"
        (self._folder / "errors").mkdir(parents=True, exist_ok=True)

    @cached_property
    def calibration(self) -> otcache.Calibration:
        """The default calibration."""
        return otcache.calibrate(
            self._target,
            self._prompts,
            self._steps,
            recipe=Recipe(batch_size=BATCH),
            directory=self._folder / "calibration",
            **self._call,
        )

    def ratio(self, budget: int) -> tuple[Schedule, Interval]:
        """The policy's schedule, and its error over uniform reuse's: log of the ratio."""
        ours = otcache.plan(self.calibration).schedule(budget)
        uniform = Schedule(self._steps, uniform_steps(self._steps, budget))
        if ours == uniform:
            return ours, mean_interval(np.zeros(len(self._held)))
        a, b = (np.maximum(self._errors(schedule), 1e-12) for schedule in (ours, uniform))
        return ours, mean_interval(np.log(a / b))

    def _errors(self, schedule: Schedule) -> Values:
        path = self._folder / "errors" / f"{digest(schedule.to_dict())}.json"
        if path.exists():
            return np.array(json.loads(path.read_text()))
        full = self._full  # before anything is accelerated
        with otcache.accelerate(self._target, schedule):
            difference = self._sample() - full
        errors = np.sqrt(np.square(difference).reshape(len(difference), -1).mean(axis=1))
        path.write_text(json.dumps(errors.tolist()))
        return errors

    @cached_property
    def _full(self) -> Values:
        path = self._folder / "full.npy"
        if not path.exists():
            np.save(path, self._sample())
        return np.load(path)

    def _sample(self) -> Values:
        made = []
        for at in range(0, len(self._held), BATCH):
            prompts = tuple(self._held[at : at + BATCH])
            request = SampleRequest(prompts, (1000,) * len(prompts), self._steps, self._call, BATCH)
            made.append(np.asarray(self._probe.sample(self._target, request), dtype=np.float64))
        return np.concatenate(made)


def main() -> int:
    """Measure every budget; 1 if one is worse than uniform reuse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", choices=sorted(TARGETS), default="demo")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--calibration", type=int, default=8, help="calibration prompts")
    parser.add_argument("--samples", type=int, default=24, help="held-out prompts")
    asked = parser.parse_args()
    bench = Bench(asked.target, asked.steps, (asked.calibration, asked.samples), asked.out)
    winners = {rung.schedule.budget: rung.winner for rung in bench.calibration.ladder}
    lines = [
        f"## {asked.target}, N = {asked.steps}",
        "",
        f"{bench.calibration.full_runs:.1f} full runs a sample to calibrate on {asked.calibration} prompts "
        f"({', '.join(f'{s} {e:,}' for s, e in bench.calibration.nfe.items())} evaluations); "
        f"{asked.samples} held-out prompts.",
        "",
        "| B | rung | forecast | error / uniform reuse |",
        "|--:|---|---|---|",
    ]
    worse = []
    for budget in range(2, asked.steps):
        schedule, found = bench.ratio(budget)
        mean, low, high = np.exp([found.mean, found.low, found.high])
        mark = " **worse**" if low > 1 + 1e-9 else ""
        rung = winners.get(budget, "between")
        figures = f"{mean:.2f} [{low:.2f}, {high:.2f}]{mark}"
        lines.append(f"| {budget} | {rung} | {schedule.forecaster} | {figures} |")
        print(lines[-1], flush=True)
        worse += [budget] if mark else []
    (asked.out / f"never-worse-{asked.target}.md").write_text("\n".join([*lines, ""]))
    if worse:
        print(f"worse than uniform reuse at B = {', '.join(map(str, worse))}", file=sys.stderr)
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
