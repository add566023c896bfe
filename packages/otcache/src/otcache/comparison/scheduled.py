"""What baselines that are schedules have in common, and the calibration samples that they tune on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from otcache.calibration.calibrate import calibrate
from otcache.calibration.recipe import Recipe
from otcache.planning import solution_of
from otcache.running import accelerate, choose
from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.calibration import Calibration
from otcache_core.contracts import (
    Baseline,
    BaselineSetting,
    CostModel,
    Evaluator,
    FeatureProbe,
    SampleRequest,
)
from otcache_core.plugins import Registry
from otcache_core.problem import Displacements
from otcache_core.trajectory import Trajectory

Found = tuple[dict[int, Schedule], int | None]


class ScheduledBaseline(Baseline):
    """Tunes one schedule a budget on calibration samples, and runs it by otcache's executor.

    Attributes:
        probe: name of the probe that records calibration samples; None for the first that supports them.
        executor: name of the executor; None for the first that supports the target.
        progress: called with (done, total) while LeMiCa's span costs are measured, the longest part.
    """

    by_budget = True
    probe: str | None = None
    executor: str | None = None
    progress: Callable[[int, int], None] | None = None

    @abstractmethod
    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Return a schedule for each budget, and the evaluations that tuning took; None if it came tuned."""

    def supports(self, target: Any, request: SampleRequest) -> str:
        """Support what a probe, an executor and the rule support."""
        try:
            choose(self.registry, "probes", target, self.probe)
            choose(self.registry, "executors", target, self.executor)
        except OtcacheError as error:
            return str(error)
        return self.unfit(target)

    def unfit(self, target: Any) -> str:
        """Return why this rule has no schedules for a target, "" if it has."""
        return ""

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Tune a schedule for each budget."""
        tuning = Tuning(target, request, self.registry, self.progress, self.probe)
        return self._calibrated(tuning, budgets)

    def _calibrated(self, tuning: Tuning, budgets: Sequence[int]) -> dict[str, Any]:
        schedules, nfe = self.schedules(tuning, budgets)
        stored = {str(b): msgspec.json.decode(msgspec.json.encode(s)) for b, s in schedules.items()}
        return {"schedules": stored, "nfe": nfe}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """Return the tuned schedules."""
        settings = []
        for budget in budgets:
            stored = measured["schedules"][str(budget)]
            schedule = msgspec.convert(stored, Schedule)
            settings.append(
                BaselineSetting(f"B = {budget}", {"schedule": stored}, num_steps, schedule.computed)
            )
        return settings

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        """Run the target by a schedule."""
        schedule = msgspec.convert(setting.values["schedule"], Schedule)
        registry = self.registry_for(measured)
        with accelerate(target, schedule, executor=self.executor, registry=registry):
            yield

    def registry_for(self, measured: Mapping[str, Any]) -> Registry:
        """Return the registry that has the forecaster of the schedules."""
        return self.registry


@dataclass(frozen=True)
class Tuning:
    """The pipeline on calibration samples.

    Args:
        target: the pipeline.
        request: calibration samples, N steps.
        registry: where solvers and cost models come from.
        progress: called with (done, total) while LeMiCa's span costs are measured.
        probe_name: of the probe that records; None for the first that supports the target.
    """

    target: Any
    request: SampleRequest
    registry: Registry
    progress: Callable[[int, int], None] | None = None
    probe_name: str | None = None

    @property
    def num_steps(self) -> int:
        """N."""
        return self.request.num_steps

    @property
    def full_runs(self) -> int:
        """Evaluations of a full run of every calibration sample."""
        return self.num_steps * len(self.request.prompts)

    @cached_property
    def probe(self) -> FeatureProbe:
        """Probe of the target."""
        return choose(self.registry, "probes", self.target, self.probe_name)

    @cached_property
    def recorded(self) -> Sequence[Trajectory]:
        """Recorded full runs; they take one full run a sample."""
        return list(self.probe.record(self.target, self.request))

    @cached_property
    def evaluator(self) -> Evaluator:
        """Evaluator on the recorded runs; making it takes one more full run a sample."""
        return self.probe.evaluator(self.target, self.request, self.recorded)

    @cached_property
    def displacements(self) -> Displacements:
        """Displacements of the spans; they take their ``nfe``, and an evaluator."""
        model: CostModel = self.create("cost_models", "displacement")
        return model.displacements(self.recorded, self.evaluator)

    def within(self, registry: Registry) -> Tuning:
        """Return the same with another registry; what is recorded stays."""
        other = replace(self, registry=registry)
        vars(other)["recorded"] = self.recorded
        return other

    def create(self, kind: str, name: str, **options: Any) -> Any:
        """Return a plugin by its name, which means otcache's own first."""
        return self.registry.create(kind, self.registry.resolve(kind, name), **options)

    def first(self, prompts: int) -> Tuning:
        """Return the same on the first samples."""
        request = self.request
        seeds = request.seeds[:prompts]
        few = replace(request, prompts=request.prompts[:prompts], seeds=seeds)
        return replace(self, request=few)

    def solve(self, solver: str, budget: int, *, given: dict[str, Any], **options: Any) -> Schedule:
        """Return the schedule that a solver plugin finds.

        Raises:
            OtcacheError: if it finds none.
        """
        problem = ScheduleProblem(self.num_steps, budget, **given)
        solution = solution_of(self.create("solvers", solver, **options), problem, solver)
        if solution.schedule is None:
            raise OtcacheError(f"{solver} found no schedule of {budget} steps: {solution.result}.")
        return solution.schedule

    def chosen(
        self, budgets: Sequence[int], candidates: Callable[[int], Sequence[Schedule]]
    ) -> Found:
        """Return the best of some schedules at each budget, and the evaluations that it takes to know."""
        among = {b: list(dict.fromkeys(candidates(b))) for b in budgets}
        found = {b: self.best(schedules) for b, schedules in among.items()}
        spent = sum(budget * len(schedules) for budget, schedules in among.items())
        return found, spent * len(self.request.prompts) + 2 * self.full_runs

    def best(self, schedules: Sequence[Schedule]) -> Schedule:
        """Return the one of least mean log RMSE of images, or of latents if the target makes none."""
        decoded = "rmse" in self.evaluator.objectives
        errors = self.evaluator.evaluate(schedules, objective="rmse" if decoded else None).errors
        return schedules[int(np.log(np.maximum(errors, 1e-12)).mean(axis=1).argmin())]


def calibrated(tuning: Tuning, recipe: Recipe, directory: str | Path | None = None) -> Calibration:
    """Calibrate on the samples of a comparison.

    Args:
        tuning: the samples.
        recipe: of which all but the batch size counts: that is the samples' own.
        directory: where finished work is kept.
    """
    request = tuning.request
    measured: Calibration = calibrate(
        tuning.target,
        request.prompts,
        request.num_steps,
        request.seeds[:1],
        recipe=replace(recipe, batch_size=request.batch_size),
        directory=directory,
        progress=False,
        registry=tuning.registry,
        probe=tuning.probe_name,
        **request.call,
    )
    return measured
