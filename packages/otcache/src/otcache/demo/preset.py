"""A demo: calibrate a shipped pipeline, and compare otcache with a few baselines in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from msgspec.structs import replace as replaced
from numpy.typing import NDArray

from otcache.calibration.calibrate import calibrate
from otcache.calibration.recipe import Recipe
from otcache.comparison.bench import Bench
from otcache.comparison.collect import Assembly
from otcache.comparison.folder import Folder
from otcache.comparison.job import Job, Question
from otcache.comparison.metrics import Measures
from otcache.comparison.scheduled import ScheduledBaseline
from otcache.comparison.timing import ROUNDS
from otcache.comparison.worker import Worker, as_read, full_runs
from otcache.planning import plan
from otcache.progress import Stages
from otcache.report.results import FULL, OURS, UNCALIBRATED, Results
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
    "Spectrum": "spectrum-tuned",
    "HiCache": "hicache",
    "HiCache++": "hicache-dmd",
    "L2P": "l2p",
    UNCALIBRATED: "otcache-uncalibrated",
}
#: File of the policy, in the folder of a demo.
POLICY = "policy.otcache"


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
        baselines: of the table, names of :data:`BASELINES`.
        metrics: of the table; none for all that are usual for what the pipeline makes.
        call: arguments of the pipeline call that are other than the demo's.
        kept: folder of the calibration, in that of the demo.
    """

    pipeline: str = "demo"
    num_steps: int = 30
    budgets: tuple[int, ...] = (5, 6, 8, 10, 15)
    calibration_prompts: int = 8
    heldout_prompts: int = 16
    seeds: tuple[int, ...] = (1000, 1001)
    recipe: Recipe = field(default_factory=lambda: Recipe(batch_size=16))
    lemica_prompts: int = 2
    baselines: tuple[str, ...] = tuple(name for name in BASELINES if name != "fewer steps, AB2")
    metrics: tuple[str, ...] = ("rmse", "psnr", "ssim", "lpips")
    call: Mapping[str, Any] = field(default_factory=dict)
    kept: str = "calibration"

    @classmethod
    def chosen(cls, *, video: bool, quick: bool) -> DemoSettings:
        """Return the settings of a command line; those of a quick demo prove nothing."""
        kept = "-".join(["calibration", *["video"] * video, *["quick"] * quick])
        settings = cls(kept=kept)
        if video:  # six to eight minutes on two cores
            settings = replace(
                settings,
                pipeline="demo:video",
                budgets=(5, 6, 10, 15),
                seeds=(1000,),
                baselines=tuple(BASELINES),
                metrics=(),
            )
        if not quick:
            return settings
        batch = 8 if video else 16
        return replace(
            settings,
            num_steps=12 if video else 20,
            budgets=(3, 6) if video else (4, 8),
            calibration_prompts=2,
            heldout_prompts=4,
            seeds=(1000,),
            recipe=Recipe(cost_samples=2, anchor_trials=6, climb_trials=2, batch_size=batch),
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
        return replaced(job, calibration=prompts, counted=0)


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
    directory: Path,
    *,
    command: str,
    progress: bool = True,
) -> DemoOutcome:
    """Calibrate, plan and compare on held-out prompts.

    Args:
        settings: how much to do.
        directory: the calibration is kept and resumed here, and ``policy.otcache`` is written.
        command: the command line, for the report.
        progress: show how far it is, on standard error.

    Raises:
        OtcacheError: if the demo's pipeline is not installed.
        FileError: if a file cannot be written.
    """
    registry, stages, events = installed(), Stages(progress), Counter[str]()
    job = settings.job(registry)
    with stages.stage("opening the pipeline"):
        bench = Bench.open(job, lambda event, **facts: events.update([event]), registry)
    calibration = calibrate(
        bench.target,
        list(job.calibration),
        job.num_steps,
        recipe=settings.recipe,
        directory=directory / settings.kept,
        overwrite=True,
        progress=progress,
        registry=registry,
        **bench.call,
    )
    plan(calibration).save(directory / POLICY)
    baselines = _baselines(settings, directory / POLICY, registry)
    measures = Measures.choose(settings.metrics, job.pipeline, registry)
    with TemporaryDirectory(prefix="otcache-", ignore_cleanup_errors=True) as path:
        folder = Folder(Path(path), memory={})
        folder.begin(job, overwrite=True)
        methods = _run_all(bench, folder, baselines, stages, events)
        results, images = Assembly(folder, measures, stages).results(
            methods, calibration.provenance, command
        )
        cells = tuple(sorted(results.cells, key=lambda cell: cell.budget))
        stage_nfe = dict(calibration.nfe)
        evaluations = {**results.calibration_nfe, OURS: sum(stage_nfe.values())}
        results = replace(
            results, cells=cells, stage_nfe=stage_nfe, sources={}, calibration_nfe=evaluations
        )
        temporal = {n for n, m in measures.metrics.items() if isinstance(m, VideoMetric)}
        over_time = tuple(name for name in results.metrics if name in temporal)
        return DemoOutcome(results, dict(images), over_time)


def _baselines(settings: DemoSettings, policy: Path, registry: Registry) -> dict[str, Baseline]:
    options: dict[str, dict[str, Any]] = {
        "LeMiCa rule": {"prompts": settings.lemica_prompts},
        OURS: {"policy": str(policy)},
    }
    baselines = {}
    for title in (*settings.baselines, OURS):
        name = registry.resolve("baselines", BASELINES.get(title, title))
        baselines[title] = registry.create("baselines", name, **options.get(title, {}))
    return baselines


def _run_all(
    bench: Bench,
    folder: Folder,
    baselines: Mapping[str, Baseline],
    stages: Stages,
    events: Counter[str],
) -> list[str]:
    """Run what supports the pipeline, and keep it in the folder; return the methods."""
    workers = {name: Worker(bench, folder.of(name), each) for name, each in baselines.items()}
    assigned: dict[str, dict[int, str]] = {}
    with stages.stage("tuning other methods", 1) as advance:
        for name, baseline in baselines.items():
            if isinstance(baseline, ScheduledBaseline):
                baseline.progress = advance
            assignment = workers[name].assign(name)
            if assignment is not None:
                assigned[name] = dict(assignment.labels)
    keys = [(name, budget) for budget in bench.job.budgets for name in assigned]
    with stages.stage("running held-out prompts", len(keys) + 1) as advance:
        full_runs(bench, folder.of(FULL))
        for done, (name, budget) in enumerate(keys, 1):
            advance(done, len(keys) + 1)
            folder.of(name).keep_run(
                *workers[name].run(assigned[name][budget])._replace(states=None)
            )
        advance(len(keys) + 1, len(keys) + 1)
    # Runs that warm up are counted too; further rounds, if a figure needs them, are not foreseen.
    total, before = 2 * ROUNDS * (len(keys) + len(bench.job.budgets)), events["step"]
    with stages.stage("timing beside full runs", total, ask=lambda: events["step"] - before):
        for budget in bench.job.budgets:
            _time(bench, folder, workers, {n: labels[budget] for n, labels in assigned.items()})
    return list(assigned)


def _time(
    bench: Bench, folder: Folder, workers: Mapping[str, Worker], labels: Mapping[str, str]
) -> None:
    """Time a setting of each method, in turns with full runs, and keep the pairs."""
    runs = {name: folder.of(name).run(label) for name, label in labels.items()}
    timed = {n: (run, workers[n].context(run.label)) for n, run in runs.items() if run is not None}
    for name, pairs in bench.pairs(timed, bench.job.samples).items():
        run, part = timed[name][0], folder.of(name)
        images = part.arrays(run.label)["images"]
        part.keep_run(as_read(replaced(run, pairs=pairs)), images, None)
