"""What a scheduled rule may use to tune itself: the calibration samples, recorded and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from otcache.solving import solution_of
from otcache.targets import choose
from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.contracts import Evaluator, FeatureProbe, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.problem import Displacements
from otcache_core.trajectory import Trajectory


@dataclass(frozen=True)
class Tuning:
    """The pipeline on calibration samples.

    Args:
        target: the pipeline.
        request: calibration samples, N steps.
        registry: where solvers and cost models come from.
        progress: called with (done, total) while LeMiCa's spans are priced, the longest part by far.
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
        """Evaluations of one full run of every calibration sample."""
        return self.num_steps * len(self.request.prompts)

    @cached_property
    def probe(self) -> FeatureProbe:
        """Of the target."""
        return choose(self.registry, "probes", self.target, self.probe_name)

    @cached_property
    def recorded(self) -> Sequence[Trajectory]:
        """Full runs; costs one full run a sample."""
        return list(self.probe.record(self.target, self.request))

    @cached_property
    def evaluator(self) -> Evaluator:
        """On those; costs one more."""
        return self.probe.evaluator(self.target, self.request, self.recorded)

    @cached_property
    def displacements(self) -> Displacements:
        """Of the spans, as vectors; costs what ``nfe`` of it says, and an evaluator."""
        name = self.registry.resolve("cost_models", "displacement")
        model = self.registry.create("cost_models", name)
        return model.displacements(self.recorded, self.evaluator)

    def first(self, prompts: int) -> Tuning:
        """The same on some of the samples."""
        ask = self.request
        few = SampleRequest(
            ask.prompts[:prompts], ask.seeds[:prompts], ask.num_steps, ask.call, ask.batch_size
        )
        return replace(self, request=few)

    def solve(self, solver: str, budget: int, *, given: dict[str, Any], **options: Any) -> Schedule:
        """The schedule that a solver plugin finds.

        Raises:
            OtcacheError: if it finds none.
        """
        problem = ScheduleProblem(self.num_steps, budget, **given)
        name = self.registry.resolve("solvers", solver)
        asked = self.registry.create("solvers", name, **options)
        solution = solution_of(asked, problem, solver)
        if solution.schedule is None:
            raise OtcacheError(f"{solver} found no schedule of {budget} steps: {solution.result}.")
        return solution.schedule

    def best(self, schedules: Sequence[Schedule]) -> Schedule:
        """The one of least mean log RMSE of pictures, of latents where the target makes none.

        Each sample counts alike.
        """
        pictured = "rmse" in self.evaluator.objectives
        errors = self.evaluator.evaluate(schedules, objective="rmse" if pictured else None).errors
        return schedules[int(np.log(np.maximum(errors, 1e-12)).mean(axis=1).argmin())]
