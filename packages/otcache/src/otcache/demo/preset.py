"""A demo from end to end: calibrate a shipped pipeline, and compare otcache with a few baselines in process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache.calibration.calibrate import calibrate
from otcache.calibration.recipe import Recipe
from otcache.comparison.baselines import LeMiCa
from otcache.comparison.bench import Bench, Finished
from otcache.comparison.collect import Assembly
from otcache.comparison.folder import Folder
from otcache.comparison.job import Job, Question
from otcache.comparison.metrics import Measures
from otcache.comparison.timing import ROUNDS
from otcache.comparison.worker import Worker, as_read, full_runs
from otcache.planning import plan
from otcache.progress import Advance, Stages
from otcache.report.results import FULL, Results
from otcache_core.contracts import Baseline, VideoMetric
from otcache_core.plugins import Registry, installed

#: The table's methods before otcache: their names there, and the baseline plugins.
BASELINES = {
    "uniform": "uniform",
    "fewer steps": "fewer-steps-own",
    "LeMiCa rule": "lemica",
    "MeanCache rule": "meancache",
    "Adams-Bashforth": "uniform-linear",
    "fewer steps, AB2": "fewer-steps-adams-bashforth",
    "UniPC": "fewer-steps-unipc",
}
OURS = "otcache"


@dataclass(frozen=True)
class DemoSettings:
    """How much the demo does.

    Args:
        pipeline: which demo, as the command line names it.
        num_steps: N.
        budgets: B of the table's groups.
        calibration_prompts: prompts the policy is made from.
        heldout_prompts: prompts of the table, none of them seen in calibration.
        seeds: seeds of every held-out prompt; calibration uses others.
        recipe: of the calibration.
        lemica_prompts: calibration prompts from which the LeMiCa rule's costs are measured; each
            takes about N^2/6 full runs.
        metrics: of the table; none for all that are usual for what the pipeline makes.
        call: arguments of the pipeline call that are other than the demo's.
    """

    pipeline: str = "demo"
    num_steps: int = 30
    budgets: tuple[int, ...] = (5, 6, 8, 10, 15)
    calibration_prompts: int = 8
    heldout_prompts: int = 16
    seeds: tuple[int, ...] = (1000, 1001)
    recipe: Recipe = field(default_factory=lambda: Recipe(batch_size=16))
    lemica_prompts: int = 2
    metrics: tuple[str, ...] = ("rmse", "psnr", "ssim", "lpips")
    call: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def chosen(cls, *, video: bool, quick: bool) -> DemoSettings:
        """Return the settings of a command line; those of a quick demo prove nothing."""
        settings = cls()
        if video:  # six to eight minutes on two cores
            settings = cls("demo:video", budgets=(5, 6, 10, 15), seeds=(1000,), metrics=())
        if not quick:
            return settings
        recipe = Recipe(
            cost_samples=2, anchor_trials=6, climb_trials=2, batch_size=8 if video else 16
        )
        return replace(
            settings,
            num_steps=12 if video else 20,
            budgets=(3, 6) if video else (4, 8),
            calibration_prompts=2,
            heldout_prompts=4,
            seeds=(1000,),
            recipe=recipe,
            lemica_prompts=1,
        )

    def job(self, registry: Registry) -> Job:
        """Return what is compared; nothing is counted, so samples run in batches."""
        question = Question(
            self.pipeline,
            num_steps=self.num_steps,
            budgets=self.budgets,
            samples=self.heldout_prompts,
            seeds=self.seeds,
            call=dict(self.call),
            reference_steps=0,
            batch_size=self.recipe.batch_size,
        )
        job = question.job(registry)
        prompts = job.calibration[: self.calibration_prompts]
        return msgspec.structs.replace(job, calibration=prompts, counted=0)


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo found.

    Args:
        results: the table's figures.
        images: images or videos of each (method, budget), and of ``("full run", N)``.
        temporal: metrics of the table that look at videos over time.
    """

    results: Results
    images: Mapping[tuple[str, int], NDArray[np.floating]]
    temporal: tuple[str, ...] = ()


def run_demo(
    settings: DemoSettings,
    calibration_directory: Path,
    policy_file: Path,
    *,
    command: str,
    stages: Stages,
    progress: bool = True,
    registry: Registry | None = None,
) -> DemoOutcome:
    """Calibrate, plan and compare on held-out prompts.

    Args:
        settings: how much to do.
        calibration_directory: the calibration is kept and resumed here.
        policy_file: the policy is written here.
        command: the command line, for the report.
        stages: show how far it is.
        progress: show how far the calibration is, on standard error.
        registry: where plugins come from; None: the installed ones.

    Raises:
        OtcacheError: if the demo's pipeline is not installed.
        FileError: if a file cannot be written.
    """
    registry = registry or installed()
    job = settings.job(registry)
    ticks = _Ticks()
    with stages.stage("opening the pipeline"):
        bench = Bench.open(job, ticks.say, registry)
    calibration = calibrate(
        bench.target,
        list(job.calibration),
        job.num_steps,
        recipe=settings.recipe,
        directory=calibration_directory,
        overwrite=True,
        progress=progress,
        registry=registry,
        **bench.call,
    )
    policy_file.parent.mkdir(parents=True, exist_ok=True)
    plan(calibration).save(policy_file)
    measures = Measures.choose(settings.metrics, job.pipeline, registry)
    with TemporaryDirectory(prefix="otcache-", ignore_cleanup_errors=True) as path:
        folder = Folder(Path(path))
        folder.begin(job, overwrite=True)
        baselines = _baselines(settings, policy_file, registry)
        methods = _run_all(bench, folder, baselines, stages, ticks)
        results, images = Assembly(folder, measures, stages).results(
            methods, calibration.provenance, command
        )
        results = replace(
            results,
            cells=tuple(sorted(results.cells, key=lambda cell: cell.budget)),
            stage_nfe=dict(calibration.nfe),
            sources={},
            calibration_nfe={},
        )
        temporal = {n for n, m in measures.metrics.items() if isinstance(m, VideoMetric)}
        over_time = tuple(name for name in results.metrics if name in temporal)
        return DemoOutcome(results, dict(images), over_time)


def _baselines(
    settings: DemoSettings, policy_file: Path, registry: Registry
) -> dict[str, Baseline]:
    options: dict[str, dict[str, Any]] = {
        "LeMiCa rule": {"prompts": settings.lemica_prompts},
        OURS: {"policy": str(policy_file)},
    }
    return {
        title: registry.create(
            "baselines", registry.resolve("baselines", name), **options.get(title, {})
        )
        for title, name in {**BASELINES, OURS: OURS}.items()
    }


def _run_all(
    bench: Bench, folder: Folder, baselines: Mapping[str, Baseline], stages: Stages, ticks: _Ticks
) -> list[str]:
    """Run what supports the pipeline, time the methods of a budget in turns, and keep all of it."""
    workers = {name: Worker(bench, folder.of(name), each) for name, each in baselines.items()}
    assigned = {}
    with stages.stage("tuning other methods", 1) as advance:
        for name, worker in workers.items():
            if isinstance(baselines[name], LeMiCa):
                baselines[name].progress = advance
            found = worker.assign(name)
            if found is not None:
                assigned[name] = dict(found.labels)
    finished: dict[tuple[str, int], Finished] = {}
    keys = [(name, budget) for budget in bench.job.budgets for name in assigned]
    with stages.stage("running held-out prompts", len(keys) + 1) as advance:
        full_runs(bench, folder.of(FULL))
        for done, (name, budget) in enumerate(keys, 1):
            advance(done, len(keys) + 1)
            finished[name, budget] = workers[name].run(assigned[name][budget])
        advance(len(keys) + 1, len(keys) + 1)
    with stages.stage("timing beside full runs") as advance:
        ticks.show(advance, 2 * ROUNDS * (len(assigned) + 1), len(bench.job.budgets))
        for budget in bench.job.budgets:
            runs = {
                name: (finished[name, budget].run, workers[name].context(assigned[name][budget]))
                for name in assigned
            }
            pairs = bench.pairs(runs, bench.job.samples)
            for name, found in pairs.items():
                run, images, _ = finished[name, budget]
                run = as_read(msgspec.structs.replace(run, pairs=found))
                folder.of(name).keep_run(run, images, None)
            ticks.next()
    return list(assigned)


class _Ticks:
    """Shows how many runs are timed; further rounds of a budget, if a figure needs them, count no more."""

    def __init__(self) -> None:
        self._advance: Callable[[int, int], None] = lambda done, total: None
        self._made = self._before = self._each = self._total = 0

    def show(self, advance: Advance, each: int, budgets: int) -> None:
        self._advance, self._each, self._total = advance, each, each * budgets

    def next(self) -> None:
        self._before, self._made = self._before + self._each, 0

    def say(self, event: str, **facts: Any) -> None:
        if event == "step" and self._total:
            self._made = min(self._made + 1, self._each)
            self._advance(self._before + self._made, self._total)
