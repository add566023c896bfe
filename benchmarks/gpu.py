"""What the executor does on a CUDA device: ``python benchmarks/gpu.py``.

FluxPipelines with random bfloat16 weights, one branch and two. For each: time of computed and of skipped
steps by CUDA events, wall time of a run, host syncs inside skipped denoiser calls by torch's sync debug
mode, and peak memory over the plain run. Prints one table to paste into docs/; random weights say nothing
about quality. Without a CUDA device it says so and stops.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from demo_runs import head, row
from random_flux import fitted_schedule, random_call, random_flux

from otcache.comparison.timing import Pair, speed
from otcache_core import Schedule
from otcache_core.contracts import RunReport
from otcache_diffusers.execution.executor import TorchExecutor

SHARES = (0.5, 0.2)
TEXT, JOINT = 256, 1024
MIB = 2**20


@dataclass(frozen=True)
class Size:
    """One line of models.

    Args:
        name: for the table.
        heads: of width 64.
        double, single: numbers of blocks.
        pixels: height and width of the image.
        guided: with a second branch.
    """

    name: str
    heads: int
    double: int
    single: int
    pixels: int
    guided: bool = False


SIZES = (
    Size("tiny", 4, 1, 1, 256),
    Size("medium", 24, 4, 12, 1024),
    Size("medium, guided", 24, 4, 12, 1024, guided=True),
)


@dataclass
class Run:
    """One run.

    Attributes:
        seconds: of wall time.
        steps: milliseconds of each step, on the device's own clock.
        peak: bytes allocated at most.
        syncs: host syncs inside skipped denoiser calls.
        report: of the executor; None of a plain run.
    """

    seconds: float = 0.0
    steps: list[float] = field(default_factory=list)
    peak: int = 0
    syncs: int = 0
    report: RunReport | None = None


class Bench:
    """Runs one model."""

    def __init__(self, size: Size, num_steps: int) -> None:
        self.size, self._n = size, num_steps
        self._pipe = random_flux(size.double, size.single, size.heads, JOINT, "cuda")
        self._pipe.transformer.to(torch.bfloat16)
        self._executor = TorchExecutor()
        place = "cuda", torch.bfloat16
        self._call = random_call(
            num_steps, size.pixels, TEXT, JOINT, guided=size.guided, place=place
        )

    @property
    def parameters(self) -> int:
        """Of the transformer."""
        return sum(p.numel() for p in self._pipe.transformer.parameters())

    def run(self, schedule: Schedule | None) -> Run:
        """One run; everything the device was given is waited for before and after."""
        context = self._executor.attach(self._pipe, schedule) if schedule else nullcontext()
        skipped = set(range(self._n)) - set(schedule.computed if schedule else range(self._n))
        made, events = Run(), [torch.cuda.Event(enable_timing=True) for _ in range(self._n + 1)]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        with (
            context as handle,
            torch.no_grad(),
            _Watch(self._pipe.transformer, skipped, events) as watch,
        ):
            self._pipe(**self._call, callback_on_step_end=watch.step_ends)
        torch.cuda.synchronize()
        made.seconds = time.perf_counter() - began
        made.peak, made.syncs = torch.cuda.max_memory_allocated(), watch.syncs
        made.steps = [a.elapsed_time(b) for a, b in pairwise(events)]
        made.report = handle.report if handle else None
        return made


class _Watch:
    """Records an event at each step's end, and counts host syncs in the calls of skipped steps.

    Args:
        module: the denoiser; its own hooks stand outside whatever replaced its forward.
        skipped: steps.
        events: one for the beginning and one for the end of each step.
    """

    def __init__(self, module: torch.nn.Module, skipped: set[int], events: list[Any]) -> None:
        self._module, self._skipped, self._events = module, skipped, events
        self._step, self._begun = 0, False
        self._recorded: list[warnings.WarningMessage] = []
        self.syncs = 0

    def __enter__(self) -> _Watch:
        self._hooks = [
            self._module.register_forward_pre_hook(self._begins),
            self._module.register_forward_hook(self._ends),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def step_ends(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        """Return the pipeline's callback."""
        self._step = step + 1
        self._events[self._step].record()
        return tensors

    def _begins(self, module: Any, args: Any) -> None:
        if not self._begun:
            self._begun = True
            self._events[0].record()
        if self._step in self._skipped:
            self._counting = _counted_syncs()
            self._recorded = self._counting.__enter__()

    def _ends(self, module: Any, args: Any, output: Any) -> None:
        if self._step in self._skipped:
            self._counting.__exit__(None, None, None)
            self.syncs += sum("synchronizing" in str(w.message) for w in self._recorded)


@contextmanager
def _counted_syncs() -> Iterator[list[warnings.WarningMessage]]:
    """Return the warnings torch gives for operations that make the host wait for the device."""
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield recorded
        finally:
            torch.cuda.set_sync_debug_mode("default")


COLUMNS = (
    "model",
    "B of N",
    "computed step, ms",
    "skipped step, ms",
    "run, s",
    "speedup (ideal)",
    "host syncs in skipped steps",
    "peak over plain, MiB",
    "cached, MiB",
)


def lines(bench: Bench, num_steps: int, repeats: int) -> list[str]:
    """Return the rows of one model; plain runs and runs of each budget take turns."""
    budgets = [max(1, round(share * num_steps)) for share in SHARES]
    schedules = {num_steps: None} | {b: fitted_schedule(num_steps, b) for b in budgets}
    for schedule in schedules.values():  # warm
        bench.run(schedule)
    runs: dict[int, list[Run]] = {b: [] for b in schedules}
    for number in range(repeats):  # either end first in turn, as in otcache.comparison.timing
        for b, schedule in list(schedules.items())[:: -1 if number % 2 else 1]:
            runs[b].append(bench.run(schedule))
    name = f"{bench.size.name}, {bench.parameters / 1e6:.0f} M, {bench.size.pixels} px"
    return [_row(name, b, num_steps, schedules[b], runs) for b in schedules]


def _row(
    name: str, budget: int, num_steps: int, schedule: Schedule | None, runs: dict[int, list[Run]]
) -> str:
    own, plain = runs[budget], runs[num_steps]
    ideal = num_steps / budget
    computed = set(schedule.computed) if schedule else set(range(num_steps))
    cells = [
        name,
        f"{budget} of {num_steps}",
        _milliseconds([t for run in own for i, t in enumerate(run.steps) if i in computed]),
        _milliseconds([t for run in own for i, t in enumerate(run.steps) if i not in computed]),
        f"{median(run.seconds for run in own):.3f}",
        _speedup([Pair(a.seconds, b.seconds) for a, b in zip(plain, own, strict=True)], ideal)
        if schedule
        else "",
    ]
    if schedule is None:
        return row(*cells, "", "", "")
    over = max(run.peak for run in own) - max(run.peak for run in plain)
    cached = max(run.report.peak_cached_bytes for run in own if run.report)
    syncs = str(sum(run.syncs for run in own))
    return row(*cells, syncs, f"{over / MIB:.2f}", f"{cached / MIB:.2f}")


def _speedup(pairs: list[Pair], ideal: float) -> str:
    found = speed(pairs, ideal)
    if found.speedup is None:
        return f"withheld, since {found.withheld}"
    return f"{found.speedup.median:.2f} ±{found.speedup.half:.2f} ({ideal:.2f})"


def _milliseconds(values: list[float]) -> str:
    return f"{median(values):.3f}" if values else ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="N")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu: no CUDA device is present, so there is nothing to measure here.")
    print(
        f"Made by `nox -s bench -- gpu` on {torch.cuda.get_device_name()}, torch {torch.__version__}, "
        f"bfloat16, random weights, N = {options.steps}, medians of {options.repeats} runs.\n"
    )
    print("\n".join(head(COLUMNS[:2], COLUMNS[2:])))
    for size in SIZES:
        bench = Bench(size, options.steps)
        print("\n".join(lines(bench, options.steps, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
