"""Follow real runs through the source files: ``python tools/journeys.py`` prints what a reader visits.

Three journeys: *plan* (calibrate, plan and accelerate a loop, in the facade), *skip* (one skipped step of
that loop, below the facade) and *compare* (a comparison to its report, in the facade and this process). A
stop is a file whose function is called for the first time, other than the file before; a return is a stop
in a file that was visited already. So a journey that reads forwards has as many stops as files.
docs/architecture.md names the files in this order, and a test holds it.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import otcache
from otcache_core.contracts import Baseline, BaselineSetting, FeatureProbe, Measured, SampleRequest
from otcache_core.plugins import Info, Registry, hookimpl

STEPS, BUDGET = 12, 4
FACADE = "otcache/"
BELOW = ("otcache_core/", "otcache_diffusers/")


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
        file = _in_package(code.co_filename)
        if not (file.startswith(self._folders) and file.endswith(".py") and _is_read(code)):
            return
        if self.stops[-1:] != [file]:
            self.stops.append(file)


def _in_package(file: str) -> str:
    """Return a file's path from its package on, wherever that is installed; "" for others."""
    for name in (FACADE, *BELOW):
        folder = str(Path(import_module(name[:-1]).__file__ or "").parent) + os.sep
        if file.startswith(folder):
            return name + file.removeprefix(folder).replace(os.sep, "/")
    return ""


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


class Grey:
    """A pipeline that makes grey images."""


class GreyProbe(FeatureProbe):
    """Samples it."""

    def supports(self, target: Any) -> str:
        """Say whether a target is such a pipeline."""
        return "" if isinstance(target, Grey) else "makes no grey images"

    def sample(self, target: Any, request: SampleRequest) -> Any:
        """Return images whose grey depends on the number of steps, shape (n, 4, 4, 3)."""
        return np.full((len(request.prompts), 4, 4, 3), 1 / request.num_steps, np.float32)

    def measure(self, target: Any, request: SampleRequest, *, flops: bool = False) -> Measured:
        """Return images and what they cost."""
        n = request.num_steps
        return Measured(self.sample(target, request), None, n / 100, 10 * n if flops else None, 1)

    def record(self, target: Any, request: SampleRequest) -> Any:
        """Record nothing."""
        raise NotImplementedError

    provenance = evaluator = record


class FewerSteps(Baseline):
    """Runs fewer steps."""

    source, by_budget = "journeys", True

    def supports(self, target: Any, request: SampleRequest) -> str:
        """Support every pipeline."""
        return ""

    def settings(self, num_steps: int, budgets: Sequence[int], measured: Any) -> Any:
        """Return a setting a budget."""
        return [BaselineSetting(f"B = {b}", {}, b, tuple(range(b))) for b in budgets]

    def apply(self, target: Any, setting: BaselineSetting, measured: Any) -> Any:
        """Change nothing."""
        return nullcontext()


@hookimpl
def otcache_provide_probes() -> list[Info]:
    """Offer the probe."""
    return [Info("grey", "journeys:GreyProbe")]


@hookimpl
def otcache_provide_baselines() -> list[Info]:
    """Offer the baseline."""
    return [Info("shorter", "journeys:FewerSteps")]


def compared() -> Journey:
    """Follow a comparison to its report; methods run in processes of their own, which are not followed."""
    from otcache.comparison.job import Job
    from otcache.comparison.runner import Settings, compare

    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(import_module("journeys"), "journeys")
    job = Job(
        title="grey images",
        pipeline="journeys:Grey",
        num_steps=4,
        budgets=(2,),
        samples=(("a", 1000, ""),),
        calibration=("b",),
        reference_steps=0,
    )
    settings = Settings(progress=False, metrics=("rmse",))
    for _ in range(2):  # the first time, what is computed once in a process is
        with tempfile.TemporaryDirectory() as folder, visits(FACADE) as seen:
            compare(job, ["shorter"], folder, settings, registry=registry)
    return Journey(seen.stops)


def main() -> None:
    """Print the three journeys."""
    journeys = {"plan": planned(), "skip": skipped(), "compare": compared()}
    for name, journey in journeys.items():
        print(f"{name}: {journey}", *journey.files, sep="\n  ")


if __name__ == "__main__":
    main()
