"""One method in a process of its own: ``python -m otcache.comparison.worker FOLDER METHOD REGISTRY``.

Nothing that a method does to classes, globals or the allocator reaches another one; a crash or a hang ends
this process and no more.
"""

from __future__ import annotations

import json
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from otcache.calibration.recipe import Recipe
from otcache.comparison.answers import as_read, facts, match, said, settings_of
from otcache.comparison.baselines import ScheduledBaseline, SolverSteps, calibrated, solver_of
from otcache.comparison.folder import (
    CALIBRATION,
    REFERENCE,
    Floats,
    Folder,
    MethodFolder,
    Plan,
    Run,
)
from otcache.comparison.job import Job
from otcache.comparison.supervisor import Channel
from otcache.comparison.timing import take_turns
from otcache.comparison.tuning import Tuning
from otcache.opening import open_pipeline
from otcache.report.results import FULL, Label
from otcache.targets import choose
from otcache_core.calibration import Calibration
from otcache_core.contracts import Baseline, BaselineSetting, FeatureProbe, Measured, SampleRequest
from otcache_core.errors import OtcacheError, shortened
from otcache_core.plugins import Registry, RegistryDescription
from otcache_core.plugins.info import ANY, reason_of

#: Calibration samples on which settings of a ladder are matched to budgets.
MATCHED_ON = 2
#: Steps of the plain run that warms up a full one.
WARM = 2
Context = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Bench:
    """The pipeline of this process, and how samples of it are measured."""

    job: Job
    target: Any
    call: dict[str, Any]
    probe: FeatureProbe
    channel: Channel

    @classmethod
    def open(cls, job: Job, channel: Channel, registry: Registry) -> Bench:
        """Open the job's pipeline."""
        opened = open_pipeline(job.pipeline, registry)
        probe = choose(registry, "probes", opened.target, job.probe or None)
        return cls(job, opened.target, {**opened.call, **job.call}, probe, channel)

    def request(self, samples: Sequence[Label], num_steps: int, batch: int = 1) -> SampleRequest:
        """Some samples on some steps."""
        prompts = tuple(prompt for prompt, _, _ in samples)
        seeds = tuple(seed for _, seed, _ in samples)
        call = dict(self.call)  # whoever changes it changes its own
        return SampleRequest(prompts, seeds, num_steps, call, batch)

    @property
    def calibration(self) -> SampleRequest:
        """What methods are calibrated on."""
        samples = [(prompt, 0, "") for prompt in self.job.calibration]
        return self.request(samples, self.job.num_steps, self.job.batch_size)

    def one(self, sample: Label, num_steps: int, *, flops: bool = False) -> Measured:
        """One sample in one pipeline call."""
        found = self.probe.measure(self.target, self.request([sample], num_steps), flops=flops)
        self.channel.say("step")
        return found

    @cached_property
    def price(self) -> tuple[float, float]:
        """Multiply-adds of a plain step, and of what a run does besides its steps."""
        sample = self.job.samples[0]
        two, three = (self.one(sample, n, flops=True).flops or 0 for n in (2, 3))
        if two == three:
            probe = type(self.probe).__name__
            raise OtcacheError(
                f"evaluations are counted by multiply-adds, and {probe}.measure(..., flops=True) finds none."
            )
        return float(three - two), float(two - 2 * (three - two))

    def evaluations(self, samples: Sequence[Label], num_steps: int) -> tuple[float, float, int]:
        """Evaluations and multiply-adds of a sample, and peak bytes, as the target is now."""
        found = [self.one(sample, num_steps, flops=True) for sample in samples]
        flops = statistics.fmean(one.flops or 0 for one in found)
        step, rest = self.price
        nfe = (flops - rest) / step if step else float("nan")
        return nfe, flops, max(one.peak_bytes or 0 for one in found)

    def run(
        self, setting: BaselineSetting, context: Context, counted: int
    ) -> tuple[Run, Floats, Floats | None]:
        """All samples of a setting, one a pipeline call, and what one of them costs."""
        samples = self.job.samples
        _ = self.price
        with context():
            made = [self.one(sample, setting.num_steps) for sample in samples]
            nfe, flops, peak = self.evaluations(samples[:counted], setting.num_steps)
        states = [one.states for one in made if one.states is not None]
        run = Run(
            label=setting.label,
            num_steps=setting.num_steps,
            computed=setting.computed,
            nfe=round(nfe, 6),
            flops=flops,
            peak_bytes=peak,
        )
        pictures = np.concatenate([one.pictures for one in made])
        return run, pictures, np.concatenate(states) if len(states) == len(made) else None

    def timed(self, run: Run, context: Context, counted: int) -> Run:
        """The same run with its pairs, on the samples whose evaluations were counted."""
        if not run.nfe > 0:  # there is no ideal to hold a speedup against
            return run
        samples = self.job.samples[:counted]

        def full(number: int) -> float:
            sample = samples[number % len(samples)]
            self.one(sample, WARM)  # the first call after a context may be slow
            return self.one(sample, self.job.num_steps).seconds

        def own(number: int) -> float:
            sample = samples[number % len(samples)]
            with context():
                self.one(sample, run.num_steps)  # and so may the first call in one
                return self.one(sample, run.num_steps).seconds

        ideal = self.job.num_steps / run.nfe
        pairs = take_turns(full, {run.label: own}, {run.label: ideal})
        return msgspec.structs.replace(run, pairs=pairs[run.label])


class Worker:
    """Runs what is missing of one method."""

    def __init__(self, bench: Bench, folder: MethodFolder, baseline: Baseline) -> None:
        self._bench, self._folder, self._baseline = bench, folder, baseline
        self._channel, self._job = bench.channel, bench.job

    def work(self, method: str) -> None:
        """Calibrate, match settings to budgets, run each; what is finished is not done again."""
        reason = said(self._baseline.supports(self._bench.target, self._bench.calibration))
        if reason:
            self._channel.say("absent", reason=reason)
            return
        measured = self._measured()
        settings = self._settings(measured)
        plan = self._folder.plan() or self._planned(method, settings, measured)
        self._channel.say("plan", labels=plan.distinct)
        failed = self._folder.failures()
        for label in plan.distinct:
            if label not in failed and self._folder.run(label) is None:
                self._run(next(s for s in settings if s.label == label), measured)

    def _measured(self) -> dict[str, Any]:
        known = self._folder.measured()
        if known is not None:
            return known
        self._channel.say("begin", what="calibration")
        request = self._bench.calibration
        known = facts(self._baseline.calibrate(self._bench.target, request, self._job.budgets))
        self._folder.keep_measured(known)
        self._channel.say("end")
        return known

    def _settings(self, measured: dict[str, Any]) -> list[BaselineSetting]:
        budgets = self._job.budgets
        made = self._baseline.settings(self._job.num_steps, budgets, deepcopy(measured))
        return settings_of(made, len(budgets) if self._baseline.by_budget else None)

    def _planned(
        self, method: str, settings: list[BaselineSetting], measured: dict[str, Any]
    ) -> Plan:
        source, price = self._baseline.source, measured.get("nfe", 0)
        if self._baseline.by_budget:
            pairs = zip(self._job.budgets, settings, strict=True)
            plan = Plan(source, price, tuple((budget, s.label) for budget, s in pairs))
        else:
            costs = {s.label: self._cost(s, measured) for s in settings}
            labels, missing = match(method, costs, self._job.budgets)
            plan = Plan(source, price, tuple(sorted(labels.items())), missing)
        plan = as_read(plan)
        self._folder.keep_plan(plan)
        return plan

    def _cost(self, setting: BaselineSetting, measured: dict[str, Any]) -> float:
        known = self._folder.costs().get(setting.label)
        if known is not None:
            return known
        self._channel.say("begin", what=f"counting {setting.label}")
        samples = [(prompt, 1, "") for prompt in self._job.calibration[:MATCHED_ON]]
        _ = self._bench.price
        with self._baseline.apply(self._bench.target, setting, measured):
            found = self._bench.evaluations(samples, setting.num_steps)[0]
        self._folder.keep_cost(setting.label, found)
        self._channel.say("end")
        return found

    def _run(self, setting: BaselineSetting, measured: dict[str, Any]) -> None:
        self._channel.say("begin", what=setting.label)
        counted = self._job.counted if self._baseline.adaptive else 1

        def context() -> AbstractContextManager[None]:
            return self._baseline.apply(self._bench.target, setting, measured)

        run, pictures, states = self._bench.run(setting, context, counted)
        run = as_read(self._bench.timed(run, context, counted))
        self._folder.keep_run(run, pictures, states)
        self._channel.say("end")


def full_runs(bench: Bench, folder: MethodFolder) -> None:
    """The full run of every sample, and the run that represents the ODE's solution if one is asked for."""
    wanted = bench.job.reference_steps > 0
    bench.channel.say("plan", labels=[FULL, *[REFERENCE] * wanted])
    if folder.run(FULL) is None:
        bench.channel.say("begin", what=FULL)
        setting = BaselineSetting(FULL, {}, bench.job.num_steps)
        folder.keep_run(*bench.run(setting, nullcontext, 1))
        bench.channel.say("end")
    if wanted and folder.run(REFERENCE) is None and REFERENCE not in folder.failures():
        folder.keep_run(*_reference(bench))


def _reference(bench: Bench) -> tuple[Run, Floats, Floats | None]:
    """Batch by batch, each within the time limit."""
    samples, steps, size = bench.job.samples, bench.job.reference_steps, bench.job.batch_size
    made = []
    for start in range(0, len(samples), size):
        bench.channel.say("begin", what=REFERENCE)
        request = bench.request(samples[start : start + size], steps, size)
        made.append(bench.probe.measure(bench.target, request))
        bench.channel.say("end")
    run = Run(REFERENCE, steps, None, float(steps), 0.0, 0)
    states = [m.states for m in made if m.states is not None]
    pictures = np.concatenate([m.pictures for m in made])
    return run, pictures, np.concatenate(states) if len(states) == len(made) else None


def main() -> None:
    """Do one method's work, and say how it ended."""
    path, method, described = sys.argv[1:]
    channel = Channel()
    try:
        _work(path, method, described, channel)
    except ANY as error:
        traceback.print_exc()
        channel.say("failed", reason=shortened(reason_of(error)))
        sys.exit(1)
    channel.say("done")


def _work(path: str, method: str, described: str, channel: Channel) -> None:
    description = msgspec.convert(json.loads(described), RegistryDescription)
    registry = Registry.from_description(description)
    folder = Folder(Path(path))
    job, part = folder.job, folder.of(method)
    channel.say("begin", what="opening the pipeline")
    bench = Bench.open(job, channel, registry)
    if method == FULL:
        channel.say("end")
        full_runs(bench, part)
        return
    if method == CALIBRATION:
        tuning = Tuning(bench.target, bench.calibration, registry, probe_name=job.probe or None)
        calibrated(tuning, Recipe(), folder.calibration)
        channel.say("end")
        return
    baseline = _baseline(method, folder, registry)
    if isinstance(baseline, ScheduledBaseline):
        baseline.probe, baseline.executor = job.probe or None, job.executor or None
    channel.say("end")
    Worker(bench, part, baseline).work(method)


def _baseline(method: str, folder: Folder, registry: Registry) -> Baseline:
    solver = solver_of(method)
    if solver is not None:
        return SolverSteps.made_by(registry, solver, Calibration.load(folder.calibration))
    name = registry.resolve("baselines", method)
    return registry.create("baselines", name, **folder.job.options.get(method, {}))


if __name__ == "__main__":
    main()
