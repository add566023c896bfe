"""What the benchmarks on a demo share: its pipeline and prompts, runs and errors, cells and tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import otcache
from otcache.calibration.recipe import Recipe
from otcache.report.statistics import mean_interval
from otcache.running import choose
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import installed
from otcache_diffusers import demo

Images = NDArray[np.floating]
SEED = 1000


def call_of(guided: bool) -> dict[str, Any]:
    """Return the arguments of the image demo's call, with or without guidance."""
    omitted = () if guided else ("true_cfg_scale", "negative_prompt")
    return {name: value for name, value in demo.CALL.items() if name not in omitted}


class DemoRuns:
    """Runs of a demo on its calibration prompts and its held-out ones.

    Args:
        num_steps: N.
        call: arguments of every call; the image demo's, guided, by default.
        pipe: what is run; the image demo by default.
        counts: numbers of calibration prompts and of held-out ones.
        batch: prompts a call.
        prompts: by role; the image demo's by default.
    """

    def __init__(
        self,
        num_steps: int = 30,
        call: dict[str, Any] | None = None,
        pipe: Any = None,
        counts: tuple[int, int] = (8, 16),
        batch: int = 16,
        prompts: Any = None,
    ) -> None:
        self.num_steps, self.batch = num_steps, batch
        self.call = call_of(guided=True) if call is None else call
        self.pipe = demo.load() if pipe is None else pipe
        self.registry = installed()
        self.probe = choose(self.registry, "probes", self.pipe)
        roles = demo.prompts() if prompts is None else prompts
        self.calibration_prompts = [text for text, _ in roles["calibration"]][: counts[0]]
        self.held_prompts = [text for text, _ in roles["heldout"]][: counts[1]]
        self.held_seeds = [SEED] * len(self.held_prompts)

    def calibrate(self, folder: Path, recipe: Recipe | None = None, **options: Any) -> Calibration:
        """Calibrate on the calibration prompts; a finished calibration in the folder is read."""
        return otcache.calibrate(
            self.pipe,
            self.calibration_prompts,
            self.num_steps,
            recipe=recipe or Recipe(batch_size=self.batch),
            directory=folder,
            progress=False,
            **options,
            **self.call,
        )

    def request(
        self, prompts: Sequence[str], seeds: Iterable[int], steps: int | None = None
    ) -> SampleRequest:
        """Ask for samples, in one call."""
        n = self.num_steps if steps is None else steps
        return SampleRequest(tuple(prompts), tuple(seeds), n, self.call, self.batch)

    def sample(self, steps: int | None = None) -> Images:
        """Run the held-out prompts as the pipeline is now."""
        made = []
        for at in range(0, len(self.held_prompts), self.batch):
            part = slice(at, at + self.batch)
            request = self.request(self.held_prompts[part], self.held_seeds[part], steps)
            made.append(np.asarray(self.probe.sample(self.pipe, request)))
        return np.concatenate(made)

    def accelerated(self, schedule: Schedule, **options: Any) -> Images:
        """Run the held-out prompts on a schedule, and print what the run warns of."""
        with otcache.accelerate(self.pipe, schedule, **options) as run:
            made = self.sample()
        for warning in run.report.warnings:
            print(warning, file=sys.stderr)
        return made

    @cached_property
    def full(self) -> Images:
        """The full run."""
        return self.sample()

    def errors(self, schedule: Schedule, **options: Any) -> NDArray[np.float64]:
        """Return the RMSE of each held-out prompt against the full run."""
        full = self.full  # before anything is accelerated
        return rmse(self.accelerated(schedule, **options), full)


def rmse(a: Images, b: Images) -> NDArray[np.float64]:
    """Return the root mean squared difference of each sample."""
    square = np.square(a.astype(np.float64) - b.astype(np.float64))
    return np.asarray(np.sqrt(square.reshape(len(square), -1).mean(axis=1)))


def interval(found: Any, form: str = ".2f") -> str:
    """Write a mean and its 95 % interval, such as a paired ratio."""
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def parser(text: str | None, samples: int | None = None) -> argparse.ArgumentParser:
    """Return a parser of a command line: the folder of the results, and the number of held-out prompts.

    Args:
        text: docstring of the benchmark.
        samples: held-out prompts by default; None if their number is fixed.
    """
    made = argparse.ArgumentParser(description=text.splitlines()[0] if text else None)
    made.add_argument("out", type=Path)
    if samples is not None:
        made.add_argument("--samples", type=int, default=samples, help="held-out prompts")
    return made


def mean_cell(values: Sequence[float]) -> str:
    """Write a mean and half of its 95 % interval; a single number as it is."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    m = mean_interval(values)
    return f"{m.mean:.5f} ±{m.half:.5f}".replace("0.", ".")


def row(*cells: str) -> str:
    """Write a line of a table."""
    return f"| {' | '.join(cells)} |"


def head(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Write the first two lines of a table: left-aligned columns, then columns of figures."""
    return [row(*names, *columns), f"|{'---|' * len(names)}{'--:|' * len(columns)}"]


def write(path: Path, lines: Sequence[str]) -> None:
    """Write the tables so far; the text around them is on the page in docs/."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
