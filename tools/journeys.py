"""Follow real runs through the source files: ``python tools/journeys.py`` prints what a reader visits.

Three journeys: *plan* (calibrate, plan and accelerate a loop, in the facade), *skip* (one skipped step of
that loop, below the facade) and *compare* (modules of the facade that a comparison and its report
import). A stop is a file whose function is called for the first time, other than the file before; a
return is a stop in a file that was visited already. So a journey that reads forwards has as many stops as
files.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

import otcache

STEPS, BUDGET = 12, 4
FACADE = "otcache/"
BELOW = ("otcache_core/", "otcache_diffusers/")
#: Imports what a comparison and its report need, and prints the facade's modules.
COMPARED = """
import json, sys
import otcache.cli.compare
from PACKAGE import PARTS
print(json.dumps(sorted(m for m in sys.modules if m.partition(".")[0] == "otcache")))
"""


class Journey(NamedTuple):
    """Files in the order in which a reader visits them.

    Args:
        stops: one entry a visit.
    """

    stops: list[str]

    @property
    def files(self) -> list[str]:
        """Return each file once, in the order of first visits."""
        return list(dict.fromkeys(self.stops))

    def __str__(self) -> str:
        returns = len(self.stops) - len(self.files)
        return f"{len(self.stops)} stops in {len(self.files)} files, {returns} returns"


class Visits:
    """Collects the files of functions that are called for the first time, below some folders."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders, self._seen = folders, set[CodeType]()
        self.stops: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or code in self._seen:
            return
        self._seen.add(code)
        file = code.co_filename.replace("\\", "/").rpartition("/src/")[2]
        if file.startswith(self._folders) and self.stops[-1:] != [file] and _is_read(code):
            self.stops.append(file)


def _is_read(code: CodeType) -> bool:
    """Whether a reader goes there for it: not for a module's own code or what a dataclass makes."""
    return not code.co_name.startswith("<") and not code.co_name.startswith("__")


@contextmanager
def visits(*folders: str) -> Iterator[Visits]:
    """Collect the visits of this thread."""
    made = Visits(folders)
    sys.setprofile(made)
    try:
        yield made
    finally:
        sys.setprofile(None)


class Swirl(nn.Module):
    """A velocity field that bends with the noise level."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(8, 8, generator=generator) / 3)
        self.after_call: Callable[[], object] = lambda: None

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Return v(x, s), shape (n, 8)."""
        return torch.tanh(x @ self.inner * (1 + s)) + torch.sin(3 * s)


def make_loop(after_step: Callable[[int], object]) -> Any:
    """Return Euler's loop around the field; ``after_step(i)`` is called before step i + 1."""
    denoiser, grid = Swirl(), torch.linspace(1, 0, STEPS + 1)

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.stack([torch.randn(8, generator=g) for g in generators])
        for i, (s, after) in enumerate(itertools.pairwise(grid)):
            x = x + (after - s) * denoiser(x, s)
            after_step(i)
        return x

    return otcache.loop(sample, denoiser=denoiser, grid=grid.tolist())


def planned() -> Journey:
    """Follow calibrate, plan and accelerate."""
    loop = make_loop(lambda i: None)
    for _ in range(2):  # the first time, whatever is imported at first use is
        with visits(FACADE) as seen:
            calibration = otcache.calibrate(loop, ["a", "b", "c"], STEPS, progress=False)
            policy = otcache.plan(calibration)
            with otcache.accelerate(loop, policy, BUDGET):
                loop(["a"], [0], STEPS)
    return Journey(seen.stops)


def skipped() -> Journey:
    """Follow one skipped step."""
    seen = Visits(BELOW)
    schedule = otcache.Schedule(STEPS, (0, 1, 4, 8))

    def after_step(i: int) -> None:
        sys.setprofile(seen if i == 5 else None)  # around step 6, which is skipped as step 5 is

    loop = make_loop(after_step)
    with otcache.accelerate(loop, schedule):
        loop(["a"], [0], STEPS)
    sys.setprofile(None)
    return Journey(seen.stops)


def compared() -> list[str]:
    """Return the facade's modules that a comparison and its report import."""
    folder = Path(otcache.__file__).parent
    package = "otcache.comparison" if (folder / "comparison").is_dir() else "otcache.arena"
    parts = sorted(p.stem for p in (folder / package.partition(".")[2]).glob("*.py"))
    report = sorted(p.stem for p in (folder / "report").glob("*.py"))
    code = COMPARED.replace("PACKAGE", package)
    code = code.replace("PARTS", ", ".join(p for p in parts if p != "__init__"))
    code = f"from otcache.report import {', '.join(p for p in report if p != '__init__')}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the three journeys."""
    for name, journey in (("plan", planned()), ("skip", skipped())):
        print(f"{name}: {journey}", *journey.files, sep="\n  ")
    modules = compared()
    print(f"compare: {len(modules)} modules of the facade")


if __name__ == "__main__":
    main()
