"""What is compared: a job as data, and how one is made of what the command line gives."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from otcache.pipelines import find_demo, read_lines
from otcache.report.results import Label
from otcache.running import load_policy
from otcache_core import FileError, OtcacheError
from otcache_core.errors import expected
from otcache_core.models import Demo
from otcache_core.numbers import integer
from otcache_core.plugins import Registry
from otcache_core.samples import seeds_of
from otcache_core.schedule import check_budget
from otcache_core.storage.files import read_bytes

FORMAT, VERSION = "otcache-comparison", 3
DEPENDENCIES = ("otcache", "otcache-diffusers", "torch", "diffusers", "cache-dit", "numpy")


def installed() -> dict[str, str]:
    """Return the versions of what figures depend on, if installed."""
    versions = {}
    for name in DEPENDENCIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One comparison, but for the methods: those may be added to it later.

    Args:
        title: heading of the report.
        pipeline: as ``otcache.pipelines.open_pipeline`` takes it: every worker opens its own.
        num_steps: N of the full run.
        budgets: B of the table, increasing.
        samples: (prompt, seed, tags) of each held-out image or video; tags joined by commas.
        calibration: prompts on which methods measure and tune themselves; none of the held-out ones.
        call: further arguments of the pipeline call.
        options: method name to arguments of its baseline class.
        reference_steps: steps of the run that represents the ODE's solution; 0 makes none, and no metric
            of it.
        counted: held-out samples on which evaluations of input-dependent methods are counted; 0 counts
            nothing: samples run in batches, and evaluations are the computed steps.
        batch_size: samples in one pipeline call if nothing is timed: of calibrations, and of the
            many-step solution.
        frames_per_second: at which videos play; 0 if unknown.
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
        """Prompt of each held-out sample."""
        return tuple(prompt for prompt, _, _ in self.samples)


SHARES = (0.17, 0.2, 0.27, 0.33, 0.5)
SAMPLES, CALIBRATION, STEPS = 16, 8, 30
Tagged = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """What is to be compared, as the command line gives it.

    Args:
        pipeline: ``demo``, ``demo:video``, a folder saved by ``save_pretrained``, or ``module:function``.
        policy: policy file for the method ``otcache``; without one it calibrates itself.
        num_steps: N; by default the policy's, or 30.
        budgets: B; five shares of N by default.
        prompts: file of held-out prompts, a line each: the prompt, or prompt, tab, tags joined by
            commas. The demo brings its own.
        calibration: file of the prompts that methods are tuned on; without one, the first lines of
            ``prompts`` (half of them, eight at most) are set aside.
        samples: use at most so many held-out prompts, kinds in turn.
        seeds: of every prompt.
        call: further arguments of the pipeline call.
        reference_steps: of the run that represents the ODE's solution; 0 makes none.
        batch_size: samples in one pipeline call if nothing is timed.
        frames_per_second: at which videos play in the report; by default the demo's own, or
            :data:`~otcache.pipelines.FRAMES_PER_SECOND`.
        probe: name of a probe plugin; by default the first that supports the pipeline.
        executor: name of the executor plugin of methods that are schedules; by default the first.

    Raises:
        OtcacheError: if a number is not an integer, or out of range.
    """

    pipeline: str
    policy: Path | None = None
    num_steps: int | None = None
    budgets: Sequence[int] = ()
    prompts: Path | None = None
    calibration: Path | None = None
    samples: int = SAMPLES
    seeds: Sequence[int] = (1000,)
    call: dict[str, Any] = field(default_factory=dict)
    reference_steps: int = 500
    batch_size: int = 16
    frames_per_second: float | None = None
    probe: str | None = None
    executor: str | None = None

    def __post_init__(self) -> None:
        numbers: dict[str, Any] = {"seeds": seeds_of(self.seeds)}
        numbers["budgets"] = tuple(integer("budgets", budget) for budget in self.budgets)
        for name, least in (("samples", 1), ("reference_steps", 0), ("batch_size", 1)):
            numbers[name] = integer(name, getattr(self, name), least)
        if self.num_steps is not None:
            numbers["num_steps"] = integer("num_steps", self.num_steps, 1)
        for name, value in numbers.items():
            object.__setattr__(self, name, value)

    def job(self, registry: Registry) -> Job:
        """Return the job.

        Raises:
            OtcacheError: if there are no prompts, a figure is out of range, or a plugin is not there.
            FileError: if a file cannot be read.
        """
        for kind, name in (("probes", self.probe), ("executors", self.executor)):
            if name is not None:
                registry.get(kind, name)
        policy = load_policy(self.policy) if self.policy else None
        n = self.num_steps or (policy.num_steps if policy else STEPS)
        demo = find_demo(self.pipeline, registry)
        held, calibration = self._prompts(demo)
        rate = self.frames_per_second
        options: dict[str, dict[str, Any]] = {}
        inputs = {}
        if self.policy is not None:
            options["otcache"] = {"policy": str(self.policy.resolve())}
            inputs["policy"] = hashlib.sha256(read_bytes(self.policy)).hexdigest()
        chosen = spread(held, self.samples)
        labels: list[Label] = [(text, seed, tags) for text, tags in chosen for seed in self.seeds]
        return Job(
            title=demo.summary if demo else f"Comparison on {self.pipeline}",
            pipeline=self.pipeline,
            num_steps=n,
            budgets=tuple(sorted(set(self.budgets or (max(1, round(s * n)) for s in SHARES)))),
            samples=tuple(labels),
            calibration=tuple(calibration),
            call={**(demo.call if demo else {}), **self.call},
            options=options,
            reference_steps=self.reference_steps,
            batch_size=self.batch_size,
            frames_per_second=(demo.frames_per_second if demo else 0.0) if rate is None else rate,
            probe=self.probe or "",
            executor=self.executor or "",
            inputs=inputs,
        )

    def _prompts(self, demo: Demo | None) -> tuple[list[Tagged], list[str]]:
        held_out = read_tagged(self.prompts) if self.prompts else []
        tuned = [text for text, _ in read_tagged(self.calibration)] if self.calibration else []
        if demo is not None:
            held_out = held_out or list(demo.prompts["heldout"])
            tuned = tuned or [text for text, _ in demo.prompts["calibration"]][:CALIBRATION]
        if not held_out:
            raise OtcacheError(
                f"{self.pipeline} brings no prompts of its own: give --prompts FILE, one per line."
            )
        if not tuned:
            held_out, tuned = set_aside(held_out)
        return held_out, tuned


def read_tagged(path: Path) -> list[Tagged]:
    """Read prompts with their tags: ``prompt``, or ``prompt<TAB>tag,tag``, a line each.

    Raises:
        FileError: if the file cannot be read, a line has no prompt or more than one tab, or a prompt
            is given twice.
    """
    tagged: dict[str, str] = {}
    for number, line in read_lines(path):
        text, _, tags = (part.strip() for part in line.partition("\t"))
        if not text or "\t" in tags:
            raise FileError(f"{path}, line {number}: must be a prompt, or prompt, tab, tags.")
        if text in tagged:
            raise FileError(f"{path}, line {number}: {text!r} is given twice.")
        tagged[text] = ",".join(tag.strip() for tag in tags.split(",") if tag.strip())
    return list(tagged.items())


def set_aside(prompts: Sequence[Tagged]) -> tuple[list[Tagged], list[str]]:
    """Split prompts into held-out ones and those at the head to tune on: half, eight at most.

    Raises:
        OtcacheError: if there are not two.
    """
    if len(prompts) < 2:
        raise OtcacheError(
            expected("prompts", len(prompts), "two or more", "one is set aside to tune methods on.")
        )
    count = min(CALIBRATION, len(prompts) // 2)
    return list(prompts[count:]), [text for text, _ in prompts[:count]]


def spread(prompts: Sequence[Tagged], count: int) -> list[Tagged]:
    """Return so many prompts, taking tags in turn so that every kind of image is in the table."""
    by_tag: dict[str, list[Tagged]] = {}
    for entry in prompts:
        by_tag.setdefault(entry[1], []).append(entry)
    turns = itertools.zip_longest(*by_tag.values())
    return [entry for turn in turns for entry in turn if entry][:count]
