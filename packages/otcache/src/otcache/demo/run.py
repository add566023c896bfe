"""The demo from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.arena.asking import spread
from otcache.calibrate import calibrate
from otcache.demo.methods import Method, methods, outcome_costs
from otcache.opening import find_demo
from otcache.planning import plan
from otcache.progress import Stages
from otcache.recipe import Recipe
from otcache.results import Cell, Results
from otcache.running import accelerate
from otcache.targets import choose
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import FeatureProbe, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.policy import Policy

METRICS = ("rmse", "psnr", "ssim", "lpips")
Pictures = dict[tuple[str, int], NDArray[np.floating]]


@dataclass(frozen=True)
class DemoSettings:
    """How much the demo does.

    Args:
        num_steps: N.
        budgets: B of the table's groups.
        calibration_prompts: prompts the policy is made from.
        heldout_prompts: prompts of the table, none of them seen in calibration.
        seeds: seeds of every held-out prompt; calibration uses others.
        recipe: of the calibration.
        lemica_prompts: calibration prompts from which the LeMiCa rule's costs are measured; each
            takes about N^2/6 full runs.
    """

    num_steps: int = 30
    budgets: tuple[int, ...] = (5, 6, 8, 10, 15)
    calibration_prompts: int = 8
    heldout_prompts: int = 16
    seeds: tuple[int, ...] = (1000, 1001)
    recipe: Recipe = field(default_factory=lambda: Recipe(batch_size=16))
    lemica_prompts: int = 2

    @classmethod
    def quick(cls) -> DemoSettings:
        """A minute's version: fewer prompts, budgets and trials; its figures prove nothing."""
        recipe = Recipe(cost_samples=2, anchor_trials=6, climb_trials=2, batch_size=16)
        return cls(
            budgets=(5, 10),
            calibration_prompts=2,
            heldout_prompts=4,
            seeds=(1000,),
            recipe=recipe,
            lemica_prompts=1,
        )


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo found.

    Args:
        calibration: of the shipped pipeline.
        policy: planned from it.
        results: the table's figures.
        pictures: pictures of each (method, budget), and of ``("full", N)``.
    """

    calibration: Calibration
    policy: Policy
    results: Results
    pictures: Pictures


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
        OtcacheError: if no demo pipeline is installed.
    """
    registry = Registry()
    demo = find_demo("demo", registry)
    assert demo is not None
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
    held = spread(demo.prompts["heldout"], settings.heldout_prompts)
    bench = _Bench(pipe, registry, settings, demo.call, held, Stages(progress))
    costs = bench.outcome_costs(prompts[: settings.lemica_prompts])
    results, pictures = bench.compare(
        methods(registry, policy, costs, settings.num_steps),
        title=demo.summary,
        calibration=calibration,
        command=command,
    )
    return DemoOutcome(calibration, policy, results, pictures)


class _Bench:
    """Runs methods on the held-out samples and measures them against the full run."""

    def __init__(
        self,
        pipe: Any,
        registry: Registry,
        settings: DemoSettings,
        call: dict[str, Any],
        held: Sequence[tuple[str, str]],
        stages: Stages,
    ) -> None:
        self._pipe, self._registry, self._settings = pipe, registry, settings
        self._call, self._stages = call, stages
        self._probe: FeatureProbe = choose(registry, "probes", pipe)
        self._samples = [(text, seed, tag) for text, tag in held for seed in settings.seeds]
        self._metrics = {name: registry.create("metrics", name) for name in METRICS}

    def outcome_costs(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """What the LeMiCa rule plans from, on calibration prompts."""
        n, total = self._settings.num_steps, len(prompts)
        request = SampleRequest(
            tuple(prompts), (0,) * total, n, self._call, self._settings.recipe.batch_size
        )
        with self._stages.stage("pricing spans for LeMiCa", n) as advance:
            return outcome_costs(self._probe, self._pipe, request, self._registry, advance)

    def compare(
        self, rows: Sequence[Method], *, title: str, calibration: Calibration, command: str
    ) -> tuple[Results, Pictures]:
        n = self._settings.num_steps
        self._run(Schedule.full(2))  # the first calls of a process are slow
        full, before = self._run(Schedule.full(n))
        pictures: Pictures = {("full", n): full}
        pairs = [(budget, method) for budget in self._settings.budgets for method in rows]
        seconds = {}
        with self._stages.stage("held-out prompts", len(pairs)) as advance:
            for done, (budget, method) in enumerate(pairs, 1):
                key = (method.name, budget)
                pictures[key], seconds[key] = self._run(method.schedule(budget))
                advance(done, len(pairs))
        _, after = self._run(Schedule.full(n))
        whole = (before + after) / 2
        cells = [
            self._cell(budget, method, whole / seconds[method.name, budget], pictures)
            for budget, method in pairs
        ]
        results = Results(
            title=title,
            num_steps=n,
            labels=tuple(self._samples),
            cells=tuple(cells),
            provenance=calibration.provenance,
            command=command,
            ledger=dict(calibration.nfe),
        )
        return results, pictures

    def _cell(self, budget: int, method: Method, speedup: float, pictures: Pictures) -> Cell:
        n, schedule = self._settings.num_steps, method.schedule(budget)
        made, full = pictures[method.name, budget], pictures["full", n]
        return Cell(
            method=method.name,
            budget=budget,
            nfe=schedule.budget,
            ideal_speedup=n / schedule.budget,
            measured_speedup=speedup,
            schedule=schedule.computed if schedule.num_steps == n else None,
            metrics={
                name: tuple(map(float, metric(made, full)))
                for name, metric in self._metrics.items()
            },
        )

    def _run(self, schedule: Schedule) -> tuple[NDArray[np.floating], float]:
        """Pictures of every sample and the seconds of the denoising loops."""
        made, seconds = [], 0.0
        size = self._settings.recipe.batch_size
        for start in range(0, len(self._samples), size):
            part = self._samples[start : start + size]
            request = SampleRequest(
                tuple(text for text, _, _ in part),
                tuple(seed for _, seed, _ in part),
                schedule.num_steps,
                self._call,
                size,
            )
            with accelerate(self._pipe, schedule, registry=self._registry) as run:
                made.append(self._probe.sample(self._pipe, request))
            seconds += run.report.seconds
        return np.concatenate(made), seconds
