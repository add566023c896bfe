"""Is otcache ever worse than uniform reuse? ``python benchmarks/never_worse.py OUT``.

At every budget from 2 to N - 1 the default policy and uniform reuse run the same held-out prompts;
RMSE against the full run. A row is the geometric mean of the paired ratio with its 95 % bootstrap
interval over prompts; if the policy *is* uniform reuse the ratio is 1 and nothing is run. Exit
status 1 if any interval lies above 1. OUT keeps the calibration and the errors of finished cells, so
an interrupted run goes on; OUT/never-worse-TARGET.md is the table.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from demo_runs import DemoRuns, head, parser, row, write
from numpy.typing import NDArray

import otcache
from otcache.report.statistics import Interval, mean_interval
from otcache_core import Schedule
from otcache_core.samples import digest
from otcache_core.transport import uniform_steps
from otcache_diffusers import demo


def _guided_loop() -> Any:
    """Load the loop of examples/guided_loop.py: two denoiser calls per step around the demo's transformer."""
    path = Path(__file__).parent.parent / "examples" / "guided_loop.py"
    return runpy.run_path(str(path))["guided_loop"](demo.load())


#: By name, what makes a pipeline or loop, and the arguments of every call of it.
TARGETS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "demo": (demo.load, dict(demo.CALL)),
    "guided-loop": (_guided_loop, {}),
}


class Bench:
    """One target: its policy and the held-out errors."""

    def __init__(self, name: str, steps: int, counts: tuple[int, int], out: Path) -> None:
        load, call = TARGETS[name]
        self._runs = DemoRuns(steps, call, load(), counts)
        self._folder = out / f"{name}-N{steps}-{counts[0]}-{counts[1]}"
        (self._folder / "errors").mkdir(parents=True, exist_ok=True)

    @cached_property
    def calibration(self) -> otcache.Calibration:
        """The default calibration."""
        return self._runs.calibrate(self._folder / "calibration")

    def ratio(self, budget: int) -> tuple[Schedule, Interval]:
        """Return the policy's schedule, and its error over uniform reuse's: log of the ratio."""
        n = self._runs.num_steps
        ours = otcache.plan(self.calibration).schedule(budget)
        uniform = Schedule(n, uniform_steps(n, budget))
        if ours == uniform:
            return ours, mean_interval(np.zeros(len(self._runs.held_prompts)))
        a, b = (np.maximum(self._errors(schedule), 1e-12) for schedule in (ours, uniform))
        return ours, mean_interval(np.log(a / b))

    def _errors(self, schedule: Schedule) -> NDArray[np.float64]:
        path = self._folder / "errors" / f"{digest(schedule.to_dict())}.json"
        if not path.exists():
            path.write_text(json.dumps(self._runs.errors(schedule).tolist()))
        return np.array(json.loads(path.read_text()))


def main() -> int:
    """Measure every budget; 1 if one is worse than uniform reuse."""
    command = parser(__doc__, samples=24)
    command.add_argument("--target", choices=sorted(TARGETS), default="demo")
    command.add_argument("--steps", type=int, default=30)
    command.add_argument("--calibration", type=int, default=8, help="calibration prompts")
    options = command.parse_args()
    bench = Bench(
        options.target, options.steps, (options.calibration, options.samples), options.out
    )
    winners = {rung.schedule.budget: rung.winner for rung in bench.calibration.ladder}
    lines = [
        f"## {options.target}, N = {options.steps}",
        "",
        f"{bench.calibration.full_runs:.1f} full runs per sample to calibrate on {options.calibration} "
        f"prompts ({', '.join(f'{s} {e:,}' for s, e in bench.calibration.nfe.items())} evaluations); "
        f"{options.samples} held-out prompts.",
        "",
        *head(("B", "rung", "forecast", "error / uniform reuse"), ()),
    ]
    worse = []
    for budget in range(2, options.steps):
        schedule, found = bench.ratio(budget)
        mean, low, high = np.exp([found.mean, found.low, found.high])
        mark = " **worse**" if low > 1 + 1e-9 else ""
        rung = winners.get(budget, "between")
        figures = f"{mean:.2f} [{low:.2f}, {high:.2f}]{mark}"
        lines.append(row(str(budget), rung, schedule.forecaster, figures))
        print(lines[-1], flush=True)
        worse += [budget] if mark else []
    write(options.out / f"never-worse-{options.target}.md", lines)
    if worse:
        print(f"worse than uniform reuse at B = {', '.join(map(str, worse))}", file=sys.stderr)
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
