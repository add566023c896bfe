"""One method in a process of its own: ``python -m otcache.comparison.worker FOLDER METHOD REGISTRY``.

Nothing that a method does to classes, globals or the allocator reaches another one; a crash or a hang ends
this process and no more.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from otcache.calibration.recipe import Recipe
from otcache.comparison.baselines import SolverSteps, solver_of
from otcache.comparison.bench import Bench, Context, Finished
from otcache.comparison.folder import (
    CALIBRATION,
    SOLUTION,
    Assignment,
    Folder,
    MethodFolder,
    Run,
)
from otcache.comparison.scheduled import ScheduledBaseline, Tuning, calibrated
from otcache.processes import Channel
from otcache.report.results import FULL, Missing
from otcache_core.calibration import Calibration
from otcache_core.contracts import Baseline, BaselineSetting
from otcache_core.errors import OtcacheError, expected, shortened
from otcache_core.plugins import Registry, RegistryDescription
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.schedule import check_num_steps

#: Calibration samples on which settings of a ladder are matched to budgets.
MATCHED_ON = 2
#: A setting is reported at a budget if its evaluations are within this factor of it.
WITHIN = 1.25
T = TypeVar("T", Assignment, Run)


class Worker:
    """Runs one method on a bench, whose job says what is counted."""

    def __init__(self, bench: Bench, folder: MethodFolder, baseline: Baseline) -> None:
        self._bench, self._folder, self._baseline = bench, folder, baseline
        self._say, self._job = bench.say, bench.job

    def work(self, method: str) -> None:
        """Do what is missing: calibrate, match settings to budgets, run and time each."""
        assigned = self.assign(method)
        failed = self._folder.failures()
        for label in assigned.distinct if assigned else ():
            if label not in failed and self._folder.run(label) is None:
                self._say("begin", what=label)
                run, images, states = self.run(label)
                samples = self._job.samples[: self._counted]
                pairs = self._bench.pairs({label: (run, self.context(label))}, samples)[label]
                run = as_read(msgspec.structs.replace(run, pairs=pairs))
                self._folder.keep_run(run, images, states)
                self._say("end")

    def assign(self, method: str) -> Assignment | None:
        """Return which setting is reported at which budget; None if the target is not supported."""
        reason = self._baseline.supports(self._bench.target, self._bench.calibration)
        if not isinstance(reason, str):
            wanted = "a text, '' if it supports the target"
            raise OtcacheError(expected("what supports() gives", reason, wanted))
        if reason:
            self._say("absent", reason=reason)
            return None
        assigned = self._folder.assignment()
        if assigned is None:
            assigned = as_read(self._assigned(method))
            self._folder.keep_assignment(assigned)
        self._say("assigned", labels=assigned.distinct)
        return assigned

    def run(self, label: str) -> Finished:
        """Run a setting on all samples."""
        setting, context = self._setting(label), self.context(label)
        if not self._job.counted:
            return self._bench.run_batches(setting, context)
        return self._bench.run(setting, context, self._counted)

    def context(self, label: str) -> Context:
        """Return what runs the target under a setting."""
        setting = self._setting(label)
        return lambda: self._baseline.apply(self._bench.target, setting, self._measured)

    def _setting(self, label: str) -> BaselineSetting:
        return next(setting for setting in self._settings if setting.label == label)

    @property
    def _counted(self) -> int:
        return self._job.counted if self._baseline.adaptive else 1

    @cached_property
    def _measured(self) -> dict[str, Any]:
        known = self._folder.measured()
        if known is not None:
            return known
        self._say("begin", what="calibration")
        request = self._bench.calibration
        known = facts_of(self._baseline.calibrate(self._bench.target, request, self._job.budgets))
        self._folder.keep_measured(known)
        self._say("end")
        return known

    @cached_property
    def _settings(self) -> list[BaselineSetting]:
        budgets, measured = self._job.budgets, deepcopy(self._measured)
        settings = self._baseline.settings(self._job.num_steps, budgets, measured)
        return settings_of(settings, len(budgets) if self._baseline.by_budget else None)

    def _assigned(self, method: str) -> Assignment:
        budgets, settings = self._job.budgets, self._settings
        source, nfe = self._baseline.source, self._measured.get("nfe", 0)
        if self._baseline.by_budget:
            pairs = zip(budgets, settings, strict=True)
            return Assignment(source, nfe, tuple((budget, s.label) for budget, s in pairs))
        labels, missing = match(method, {s.label: self._evaluations(s) for s in settings}, budgets)
        return Assignment(source, nfe, tuple(sorted(labels.items())), missing)

    def _evaluations(self, setting: BaselineSetting) -> float:
        known = self._folder.evaluations().get(setting.label)
        if known is not None:
            return known
        self._say("begin", what=f"counting {setting.label}")
        samples = [(prompt, 1, "") for prompt in self._job.calibration[:MATCHED_ON]]
        _ = self._bench.flops_of_step
        with self.context(setting.label)():
            nfe = self._bench.evaluations(samples, setting.num_steps)[0]
        self._folder.keep_evaluations(setting.label, nfe)
        self._say("end")
        return nfe


def facts_of(measured: object) -> dict[str, Any]:
    """Return what a baseline calibrated.

    Raises:
        OtcacheError: if that is not a mapping of names, or its ``nfe`` is not a number of evaluations.
    """
    if not isinstance(measured, Mapping) or not all(isinstance(name, str) for name in measured):
        raise OtcacheError(expected("what calibrate() gives", measured, "plain data by name"))
    nfe = measured.get("nfe", 0)
    if nfe is not None and (not isinstance(nfe, int) or isinstance(nfe, bool) or nfe < 0):
        wanted = "a number of evaluations, or None"
        raise OtcacheError(expected("'nfe' of what calibrate() gives", nfe, wanted))
    return dict(measured)


def settings_of(returned: object, count: int | None) -> list[BaselineSetting]:
    """Return what a baseline can be set to.

    Args:
        returned: what ``settings`` returned.
        count: of budgets, if there is one setting for each.

    Raises:
        OtcacheError: if these are not settings, another number of them, or two have one label.
    """
    settings = list(returned) if isinstance(returned, Iterable) else None
    if settings is None or not all(isinstance(one, BaselineSetting) for one in settings):
        raise OtcacheError(expected("what settings() gives", returned, "a list of BaselineSetting"))
    if count is not None and len(settings) != count:
        raise OtcacheError(expected("settings", len(settings), f"{count}, one per budget"))
    known: dict[str, BaselineSetting] = {}
    for one in settings:
        if not isinstance(one.label, str) or not one.label:
            raise OtcacheError(expected("the label of a setting", one.label, "a short text"))
        check_num_steps(one.num_steps)
        if known.setdefault(one.label, one) != one:
            raise OtcacheError(expected("labels of settings", one.label, "distinct"))
    return settings


def as_read(kept: T) -> T:
    """Return an assignment or a run as another process reads it from its file.

    Raises:
        OtcacheError: if it could not be read.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(kept), type(kept))
    except (msgspec.ValidationError, TypeError, OverflowError) as error:
        raise OtcacheError(f"what it gives cannot be kept: {error}") from error


def match(
    method: str, evaluations: Mapping[str, float], budgets: Sequence[int]
) -> tuple[dict[int, str], tuple[Missing, ...]]:
    r"""Choose the setting nearest to each budget, in evaluations.

    .. math:: \arg\min_s |\log(\mathrm{NFE}_s / B)|, \qquad
        B / 1.25 \le \mathrm{NFE}_s \le 1.25 B

    One setting may be reported at two budgets. If no setting is near any budget, the cheapest one is
    reported at a budget of its own, its evaluations rounded, so that the method is seen all the same.

    Args:
        method: for the reasons.
        evaluations: label of a setting to its evaluations on calibration samples.
        budgets: B of the comparison.

    Returns:
        Budget to label, and a reason for each budget that has none.
    """
    usable = {label: nfe for label, nfe in evaluations.items() if math.isfinite(nfe) and nfe > 0}
    if not usable:
        return {}, (Missing(method, None, "no setting of it could be counted"),)
    labels: dict[int, str] = {}
    missing = []
    for budget in budgets:
        label = min(usable, key=lambda name: (abs(math.log(usable[name] / budget)), usable[name]))
        if 1 / WITHIN <= usable[label] / budget <= WITHIN:
            labels[budget] = label
        else:
            reason = f"the nearest setting, {label}, takes {usable[label]:.3g} evaluations"
            missing.append(Missing(method, budget, reason))
    if not labels:
        cheapest = min(usable, key=lambda name: usable[name])
        labels[max(1, round(usable[cheapest]))] = cheapest
    return labels, tuple(missing)


def full_runs(bench: Bench, folder: MethodFolder) -> None:
    """Make the full run of every sample, and the many-step solution if the job has one."""
    job, say = bench.job, bench.say
    wanted = job.reference_steps > 0
    say("assigned", labels=[FULL, *[SOLUTION] * wanted])
    if folder.run(FULL) is None:
        say("begin", what=FULL)
        full = BaselineSetting(FULL, {}, job.num_steps)
        counted = bench.run(full, nullcontext, 1) if job.counted else None
        folder.keep_run(*(counted or bench.run_batches(full, nullcontext)))
        say("end")
    if wanted and folder.run(SOLUTION) is None and SOLUTION not in folder.failures():
        solution = BaselineSetting(SOLUTION, {}, job.reference_steps)
        folder.keep_run(*bench.run_batches(solution, nullcontext))


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
    bench = Bench.open(job, channel.say, registry)
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
