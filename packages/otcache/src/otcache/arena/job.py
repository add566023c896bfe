"""What is compared: plain data that a worker process can read."""

from __future__ import annotations

import contextlib
import math
from importlib import metadata
from typing import Any

import msgspec

from otcache.results import Label
from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_core.schedule import check_budget

FORMAT, VERSION = "otcache-arena", 2
DEPENDENCIES = ("otcache", "otcache-diffusers", "torch", "diffusers", "cache-dit", "numpy")


def installed() -> dict[str, str]:
    """Versions of what figures depend on, of those that are installed."""
    found = {}
    for name in DEPENDENCIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One comparison, but for the methods: those may be added to it later.

    Args:
        title: heading of the report.
        pipeline: as ``otcache.opening.open_pipeline`` takes it: every worker opens its own.
        num_steps: N of the full run.
        budgets: B of the table, increasing.
        samples: (prompt, seed, tags) of each held-out picture or clip; tags joined by commas.
        calibration: prompts on which methods measure and tune themselves; none of the held-out ones.
        call: further arguments of the pipeline call.
        options: method name to arguments of its baseline class.
        reference_steps: steps of the run that represents the ODE's solution; 0 makes none, and no metric
            of it.
        counted: held-out samples on which evaluations of input-dependent methods are counted.
        batch_size: samples in one pipeline call where nothing is timed: calibrations, and the run that
            stands for the ODE's solution.
        frames_per_second: at which clips play; 0 where nobody says.
        probe: name of the probe that records and measures; "" for the first that supports the pipeline.
        executor: name of the executor of methods that are schedules; "" for the first that supports it.
        inputs: digests of the files that options name: another content is another job.
        versions: of what the figures depend on: results of different ones are not mixed.

    Raises:
        OtcacheError: if a budget is not in 1..N, prompts are missing or used twice, or a call argument
            or the frame rate is not finite.
    """

    title: str
    pipeline: str
    num_steps: int
    budgets: tuple[int, ...]
    samples: tuple[Label, ...]
    calibration: tuple[str, ...]
    call: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    reference_steps: int = 500
    counted: int = 4
    batch_size: int = 16
    frames_per_second: float = 0.0
    probe: str = ""
    executor: str = ""
    inputs: dict[str, str] = {}
    versions: dict[str, str] = msgspec.field(default_factory=installed)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OtcacheError(expected("batch_size", self.batch_size, "at least 1"))
        if self.reference_steps < 0:
            raise OtcacheError(expected("reference_steps", self.reference_steps, "at least 0"))
        rate = self.frames_per_second
        if not (math.isfinite(rate) and rate >= 0):
            raise OtcacheError(expected("frames_per_second", rate, "a finite number of at least 0"))
        for budget in self.budgets:
            check_budget(budget, self.num_steps)
        if not self.budgets or list(self.budgets) != sorted(set(self.budgets)):
            raise OtcacheError(expected("budgets", self.budgets, "distinct and increasing"))
        if not self.samples or not self.calibration:
            got = f"{len(self.samples)} and {len(self.calibration)}"
            raise OtcacheError(expected("held-out and calibration prompts", got, "some of each"))
        seen = sorted({prompt for prompt, _, _ in self.samples} & set(self.calibration))
        if seen:
            wanted = "others than the calibration prompts"
            raise OtcacheError(expected("held-out prompts", seen[0], wanted))
        for name, value in self.call.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise OtcacheError(expected(f"call argument {name}", value, "a finite number"))

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of each held-out sample."""
        return tuple(prompt for prompt, _, _ in self.samples)
