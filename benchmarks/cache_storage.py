"""Outputs kept in fewer bits: ``python benchmarks/cache_storage.py OUT [--video]``.

The demo pipeline (N = 30) under one policy of a small calibration: RMSE of held-out images against
the full run with outputs kept as they are (float32), in bf16, in fp16, and, tried and not offered, in 8 bits.
Whole outputs and block stacks. OUT keeps the calibrations; OUT/cache-storage.md has the tables of
docs/cache-storage.md, about five minutes on one core for images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_runs import DemoRuns, head, interval, parser, rmse, row, write
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

import otcache
from otcache.calibration.recipe import Recipe
from otcache.pipelines import find_demo
from otcache.report.statistics import mean_interval, paired_difference, paired_ratio
from otcache_core import OtcacheError
from otcache_core.contracts import CacheStorage
from otcache_core.plugins import Registry
from otcache_diffusers.execution.block_executor import cache_blocks
from otcache_diffusers.execution.cached_steps import CachedSteps
from otcache_diffusers.execution.executor import Level, TorchExecutor, cache_outputs
from otcache_diffusers.hooks import DenoiserCall, StepHook

N, BUDGETS, BATCH = 30, (6, 10, 15), 4
RECIPE = Recipe(cost_samples=2, anchor_trials=12, climb_trials=8, batch_size=BATCH)
CALIBRATION_PROMPTS = 4
GUIDANCE = {"image": "with", "video": "without"}
LEVELS: dict[str, Level] = {"whole outputs": cache_outputs, "block stacks": cache_blocks}
STORAGES = {"float32": None, "bf16": CacheStorage("bf16"), "fp16": CacheStorage("fp16")}
EIGHT_BITS, GROUP = "8 bits, not offered", 64


def eight_bits(x: torch.Tensor) -> torch.Tensor:
    r"""X rounded to multiples of s = max \|x\| / 127, over each 64 numbers that lie side by side."""
    padded = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % GROUP)).view(-1, GROUP)
    s = padded.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / 127
    return ((padded / s).round() * s).flatten()[: x.numel()].view(x.shape)


class InEightBits:
    """A policy that caches what is left of outputs in eight bits."""

    def __init__(self, cache: CachedSteps) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def compute(self, call: DenoiserCall) -> Any:
        """Keep the rounded output."""
        output = call.compute()
        self.keep(call, call.to_run_quantity(output))
        return output

    def keep(self, call: DenoiserCall, value: Any) -> None:
        """Keep a value, rounded."""
        self._cache.keep(call, pytree.tree_map_only(torch.Tensor, eight_bits, value))


def in_eight_bits(level: Level) -> Level:
    """Return the level over such a policy."""

    def made(target: Any, cache: CachedSteps) -> StepHook:
        rounding: Any = InEightBits(cache)
        return level(target, rounding)

    return made


@dataclass(frozen=True)
class Cell:
    """Of one way to keep outputs at one budget.

    Attributes:
        rmse: one per prompt.
        held: bytes at peak, of one batch.
    """

    rmse: NDArray[np.float64]
    held: float


class Runs:
    """Held-out images or videos of one demo.

    Args:
        name: of the demo.
        out: folder that keeps its calibration.
        samples: held-out prompts.
    """

    def __init__(self, name: str, out: Path, samples: int) -> None:
        demo = find_demo(f"demo:{name}", Registry())
        if demo is None:
            raise OtcacheError(f"demo:{name} is not installed: pip install 'otcache[video]'")
        counts = CALIBRATION_PROMPTS, samples
        self._runs = DemoRuns(N, demo.call, demo.load(), counts, BATCH, demo.prompts)
        self.policy = otcache.plan(self._runs.calibrate(out / name, RECIPE))

    def cell(self, budget: int, attach: Callable[[Any, otcache.Schedule], Any]) -> Cell:
        """Measure what comes out under an executor."""
        full = self._runs.full  # before anything is accelerated
        with attach(self._runs.pipe, self.policy.schedule(budget)) as run:
            made = self._runs.sample()
        assert not run.report.warnings, run.report.warnings
        return Cell(rmse(made, full), run.report.peak_cached_bytes)


def ways(level: Level) -> dict[str, Callable[[Any, otcache.Schedule], Any]]:
    """How outputs are kept, by name."""

    def kept(storage: CacheStorage | None) -> Callable[[Any, otcache.Schedule], Any]:
        executor = TorchExecutor(level=level)
        return lambda pipe, schedule: executor.attach(pipe, schedule, storage=storage)

    found = {name: kept(storage) for name, storage in STORAGES.items()}
    return {**found, EIGHT_BITS: TorchExecutor(level=in_eight_bits(level)).attach}


def table(runs: Runs) -> list[str]:
    """Measure one line a level, budget and way."""
    columns = ("RMSE", "difference to float32", "ratio to float32", "KiB held")
    lines = head(("level", "B", "kept in"), columns)
    for level, of_target in LEVELS.items():
        for budget in BUDGETS:
            cells = {name: runs.cell(budget, attach) for name, attach in ways(of_target).items()}
            base = cells["float32"]
            lines += [_line(level, budget, name, cell, base) for name, cell in cells.items()]
            print(*lines[-len(cells) :], sep="\n", flush=True)
    return [*lines, ""]


def _line(level: str, budget: int, name: str, cell: Cell, base: Cell) -> str:
    held = base.held * (1 + 4 / GROUP) / 4 if name == EIGHT_BITS else cell.held
    compared = ("", "")
    if cell is not base:
        change = interval(paired_difference(cell.rmse, base.rmse), "+.6f")
        compared = change, interval(paired_ratio(cell.rmse, base.rmse), ".3f")
    mean = interval(mean_interval(cell.rmse), ".5f")
    return row(level, str(budget), name, mean, *compared, f"{held / 1024:.1f}")


def main() -> None:
    """Measure, keep each demo's table, write all of them."""
    command = parser(__doc__, samples=12)
    command.add_argument("--video", action="store_true", help="the video demo too")
    options = command.parse_args()
    demos = ["image", "video"] if options.video else ["image"]
    lines = []
    for name in demos:
        kept = options.out / f"{name}-{options.samples}.json"
        if not kept.exists():
            rows = table(Runs(name, options.out, options.samples))
            kept.write_text(json.dumps(rows), encoding="utf-8")
        lines += [
            f"## The {name} demo, {GUIDANCE[name]} guidance",
            "",
            *json.loads(kept.read_text(encoding="utf-8")),
        ]
    write(options.out / "cache-storage.md", lines)


if __name__ == "__main__":
    main()
