"""A demo from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.arena.asking import spread
from otcache.arena.measures import Measures
from otcache.arena.tuning import Tuning
from otcache.calibrate import calibrate
from otcache.demo.methods import Method, methods
from otcache.demo.settings import DemoSettings
from otcache.opening import open_demo
from otcache.planning import plan
from otcache.progress import Stages
from otcache.results import Cell, Results
from otcache.running import accelerate
from otcache.targets import choose
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import ClipMetric, FeatureProbe, SampleRequest
from otcache_core.demo import Demo
from otcache_core.plugins import Registry
from otcache_core.policy import Policy

Floats = NDArray[np.floating]
Pictures = dict[tuple[str, int], Floats]


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo found.

    Args:
        calibration: of the shipped pipeline.
        policy: planned from it.
        results: the table's figures.
        pictures: pictures or clips of each (method, budget), and of ``("full", N)``.
        temporal: metrics of the table that look at clips over time.
    """

    calibration: Calibration
    policy: Policy
    results: Results
    pictures: Pictures
    temporal: tuple[str, ...] = ()


def run_demo(
    settings: DemoSettings, directory: Path | None, *, command: str, progress: bool = True
) -> DemoOutcome:
    """Calibrate, plan and compare on held-out prompts.

    Args:
        settings: how much to do.
        directory: the calibration is kept and resumed here; None keeps nothing.
        command: the command line, for the report.
        progress: show bars.

    Raises:
        OtcacheError: if the demo's pipeline is not installed.
    """
    registry = Registry()
    demo = open_demo(settings.pipeline, registry)
    demo = replace(demo, call=demo.call | dict(settings.call))
    pipe = demo.load()
    prompts = [text for text, _ in demo.prompts["calibration"]][: settings.calibration_prompts]
    calibration = calibrate(
        pipe,
        prompts,
        settings.num_steps,
        recipe=settings.recipe,
        directory=directory,
        overwrite=True,
        progress=progress,
        registry=registry,
        **demo.call,
    )
    policy = plan(calibration)
    bench = _Bench(pipe, registry, settings, demo, Stages(progress))
    rows = bench.methods(prompts, policy)
    return bench.compare(rows, calibration, policy, command)


class _Bench:
    """Runs methods on the held-out samples and measures them against the full run."""

    def __init__(
        self, pipe: Any, registry: Registry, settings: DemoSettings, demo: Demo, stages: Stages
    ) -> None:
        self._pipe, self._registry, self._settings = pipe, registry, settings
        self._demo, self._stages = demo, stages
        self._probe: FeatureProbe = choose(registry, "probes", pipe)
        held = spread(demo.prompts["heldout"], settings.heldout_prompts)
        self._samples = [(text, seed, tag) for text, tag in held for seed in settings.seeds]

    def methods(self, prompts: Sequence[str], policy: Policy) -> list[Method]:
        """The table's rows, tuned on calibration prompts."""
        settings = self._settings
        request = self._request([(prompt, 0, "") for prompt in prompts], settings.num_steps)
        with self._stages.stage("pricing spans for LeMiCa", 1) as advance:
            tuning = Tuning(self._pipe, request, self._registry, advance)
            return methods(
                tuning, settings.budgets, policy, settings.lemica_prompts, settings.samplers
            )

    def compare(
        self, rows: Sequence[Method], calibration: Calibration, policy: Policy, command: str
    ) -> DemoOutcome:
        n, texts = self._settings.num_steps, [text for text, _, _ in self._samples]
        self._run(Schedule.full(2))  # the first calls of a process are slow
        full, before = self._run(Schedule.full(n))
        chosen = Measures.choose(self._settings.metrics, self._settings.pipeline, self._registry)
        measures = chosen.usable(full, texts)
        pictures: Pictures = {("full", n): full}
        pairs = [(budget, method) for budget in self._settings.budgets for method in rows]
        seconds = {}
        with self._stages.stage("held-out prompts", len(pairs)) as advance:
            for done, (budget, method) in enumerate(pairs, 1):
                key = (method.name, budget)
                with method.around(self._pipe, budget):
                    pictures[key], seconds[key] = self._run(method.schedule(budget))
                advance(done, len(pairs))
        _, after = self._run(Schedule.full(n))
        whole = (before + after) / 2
        cells = []
        with self._stages.stage("comparing with full runs", len(pairs)) as advance:
            for done, (budget, method) in enumerate(pairs, 1):
                key = (method.name, budget)
                values = measures.values(pictures[key], full, texts)
                cells.append(_cell(method, budget, n, whole / seconds[key], values))
                advance(done, len(pairs))
        results = Results(
            title=self._demo.summary,
            num_steps=n,
            labels=tuple(self._samples),
            cells=tuple(cells),
            provenance=calibration.provenance,
            command=command,
            ledger=dict(calibration.nfe),
            frames_per_second=self._demo.frames_per_second,
        )
        over_time = [name for name, m in measures.metrics.items() if isinstance(m, ClipMetric)]
        return DemoOutcome(calibration, policy, results, pictures, tuple(over_time))

    def _run(self, schedule: Schedule) -> tuple[Floats, float]:
        """What is made of every sample, and the seconds of the denoising loops."""
        made, seconds = [], 0.0
        size = self._settings.recipe.batch_size
        for start in range(0, len(self._samples), size):
            request = self._request(self._samples[start : start + size], schedule.num_steps)
            with accelerate(self._pipe, schedule, registry=self._registry) as run:
                made.append(self._probe.sample(self._pipe, request))
            seconds += run.report.seconds
        return np.concatenate(made), seconds

    def _request(self, samples: Sequence[tuple[str, int, str]], num_steps: int) -> SampleRequest:
        return SampleRequest(
            tuple(text for text, _, _ in samples),
            tuple(seed for _, seed, _ in samples),
            num_steps,
            self._demo.call,
            self._settings.recipe.batch_size,
        )


def _cell(
    method: Method, budget: int, n: int, speedup: float, values: dict[str, NDArray[np.float64]]
) -> Cell:
    schedule = method.schedule(budget)
    return Cell(
        method=method.name,
        budget=budget,
        nfe=schedule.budget,
        ideal_speedup=n / schedule.budget,
        measured_speedup=speedup,
        schedule=schedule.computed if schedule.num_steps == n else None,
        metrics={name: tuple(map(float, each)) for name, each in values.items()},
    )
