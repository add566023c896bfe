"""A demo from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.calibration.calibrate import calibrate
from otcache.comparison.collect import without
from otcache.comparison.job import spread
from otcache.comparison.metrics import Measures
from otcache.comparison.scheduled import Tuning
from otcache.comparison.timing import ROUNDS, Speed, Timed, speed, take_turns
from otcache.demo.methods import Method, methods
from otcache.demo.settings import DemoSettings
from otcache.pipelines import open_demo
from otcache.planning import plan
from otcache.progress import Advance, Stages
from otcache.report.results import FULL, Cell, Results
from otcache.running import accelerate, choose
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import SampleRequest, VideoMetric
from otcache_core.models import Demo
from otcache_core.plugins import Registry, installed
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
        pictures: pictures or clips of each (method, budget), and of ``("full run", N)``.
        temporal: metrics of the table that look at clips over time.
    """

    calibration: Calibration
    policy: Policy
    results: Results
    pictures: Pictures
    temporal: tuple[str, ...] = ()


def run_demo(
    settings: DemoSettings,
    directory: Path | None,
    *,
    command: str,
    progress: bool = True,
    registry: Registry | None = None,
) -> DemoOutcome:
    """Calibrate, plan and compare on held-out prompts.

    Args:
        settings: how much to do.
        directory: the calibration is kept and resumed here; None keeps nothing.
        command: the command line, for the report.
        progress: show how far it is, on standard error.
        registry: where plugins come from; None: the installed ones.

    Raises:
        OtcacheError: if the demo's pipeline is not installed.
    """
    registry = registry or installed()
    demo = open_demo(settings.pipeline, registry)
    demo = replace(demo, call=demo.call | dict(settings.call))
    stages = Stages(progress)
    with stages.stage("opening the pipeline"):
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
    bench = _Bench(pipe, registry, settings, demo, stages)
    rows = bench.methods(prompts, policy)
    return bench.compare(rows, calibration, policy, command)


class _Bench:
    """Runs methods on the held-out samples and measures them against the full run."""

    def __init__(
        self, pipe: Any, registry: Registry, settings: DemoSettings, demo: Demo, stages: Stages
    ) -> None:
        self._pipe, self._registry, self._settings = pipe, registry, settings
        self._demo, self._stages = demo, stages
        self._probe = choose(registry, "probes", pipe)
        held = spread(demo.prompts["heldout"], settings.heldout_prompts)
        self._samples = [(text, seed, tag) for text, tag in held for seed in settings.seeds]

    def methods(self, prompts: Sequence[str], policy: Policy) -> list[Method]:
        """The table's rows, tuned on calibration prompts."""
        settings = self._settings
        request = self._request([(prompt, 0, "") for prompt in prompts], settings.num_steps)
        with self._stages.stage("tuning other methods", 1) as advance:
            tuning = Tuning(self._pipe, request, self._registry, advance)
            return methods(
                tuning, settings.budgets, policy, settings.lemica_prompts, settings.samplers
            )

    def compare(
        self, rows: Sequence[Method], calibration: Calibration, policy: Policy, command: str
    ) -> DemoOutcome:
        n, texts = self._settings.num_steps, [text for text, _, _ in self._samples]
        chosen = Measures.choose(self._settings.metrics, self._settings.pipeline, self._registry)
        pairs = [(budget, method) for budget in self._settings.budgets for method in rows]
        with self._stages.stage("running held-out prompts", len(pairs) + 1) as advance:
            full = self._run(Schedule.full(n))
            pictures: Pictures = {(FULL, n): full}
            measures = chosen.usable(full, texts)
            for done, (budget, method) in enumerate(pairs, 1):
                advance(done, len(pairs) + 1)
                with method.around(self._pipe, budget):
                    pictures[method.name, budget] = self._run(method.schedule(budget))
            advance(len(pairs) + 1, len(pairs) + 1)
        speeds = self._speeds(rows)
        cells = []
        with self._stages.stage("comparing with full runs", len(pairs)) as advance:
            for done, (budget, method) in enumerate(pairs, 1):
                key = (method.name, budget)
                values = measures.values(pictures[key], full, texts)
                cells.append(_cell(method, budget, n, speeds[key], values))
                advance(done, len(pairs))
        results = Results(
            title=self._demo.summary,
            num_steps=n,
            labels=tuple(self._samples),
            cells=tuple(without(cell, measures.lost) for cell in cells),
            missing=tuple(measures.missing()),
            provenance=calibration.provenance,
            command=command,
            ledger=dict(calibration.nfe),
            higher_is_better=measures.directions(),
            frames_per_second=self._demo.frames_per_second,
        )
        over_time = [name for name, m in measures.metrics.items() if isinstance(m, VideoMetric)]
        return DemoOutcome(calibration, policy, results, pictures, tuple(over_time))

    def _speeds(self, rows: Sequence[Method]) -> dict[tuple[str, int], Speed]:
        """Time one sample a call, every method of a budget in turn with plain full runs."""
        n, budgets, found = self._settings.num_steps, self._settings.budgets, {}
        each = ROUNDS * (len(rows) + 1)
        with self._stages.stage("timing beside full runs", each * len(budgets)) as advance:
            for place, budget in enumerate(budgets):
                counted = _Counted(advance, place * each, each, each * len(budgets))
                timed = {m.name: counted(self._timed(m, budget)) for m in rows}
                ideals = {method.name: n / method.schedule(budget).budget for method in rows}
                for name, pairs in take_turns(counted(self._full), timed, ideals).items():
                    found[name, budget] = speed(pairs, ideals[name])
        return found

    def _full(self, number: int) -> float:
        """Return the seconds of a plain full run."""
        return self._probe.measure(self._pipe, self._one(number, self._settings.num_steps)).seconds

    def _timed(self, method: Method, budget: int) -> Timed:
        schedule = method.schedule(budget)

        def run(number: int) -> float:
            request = self._one(number, schedule.num_steps)
            with (
                method.around(self._pipe, budget),
                accelerate(self._pipe, schedule, registry=self._registry),
            ):
                return self._probe.measure(self._pipe, request).seconds

        return run

    def _one(self, number: int, num_steps: int) -> SampleRequest:
        return self._request([self._samples[number % len(self._samples)]], num_steps)

    def _run(self, schedule: Schedule) -> Floats:
        """What is made of every sample."""
        made = []
        size = self._settings.recipe.batch_size
        for start in range(0, len(self._samples), size):
            request = self._request(self._samples[start : start + size], schedule.num_steps)
            with accelerate(self._pipe, schedule, registry=self._registry):
                made.append(self._probe.sample(self._pipe, request))
        return np.concatenate(made)

    def _request(self, samples: Sequence[tuple[str, int, str]], num_steps: int) -> SampleRequest:
        return SampleRequest(
            tuple(text for text, _, _ in samples),
            tuple(seed for _, seed, _ in samples),
            num_steps,
            self._demo.call,
            self._settings.recipe.batch_size,
        )


class _Counted:
    """Shows how many runs of a budget are timed; further rounds, if a figure needs them, count no more.

    Args:
        advance: takes (done, total).
        before: runs of the budgets before.
        most: runs of this one.
        total: of all.
    """

    def __init__(self, advance: Advance, before: int, most: int, total: int) -> None:
        self._advance, self._before, self._most, self._total = advance, before, most, total
        self._made = 0

    def __call__(self, run: Timed) -> Timed:
        def timed(number: int) -> float:
            seconds = run(number)
            self._made = min(self._made + 1, self._most)
            self._advance(self._before + self._made, self._total)
            return seconds

        return timed


def _cell(
    method: Method, budget: int, n: int, timed: Speed, values: dict[str, NDArray[np.float64]]
) -> Cell:
    schedule = method.schedule(budget)
    return Cell(
        method=method.name,
        budget=budget,
        nfe=schedule.budget,
        ideal_speedup=n / schedule.budget,
        schedule=schedule.computed if schedule.num_steps == n else None,
        metrics={name: tuple(map(float, each)) for name, each in values.items()},
        **timed.facts(),
    )
