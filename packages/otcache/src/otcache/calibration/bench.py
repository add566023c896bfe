"""What every stage works with: the recorded runs, what measures schedules on them, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache.calibration.recipe import FITTED, Recipe, cost_model_of
from otcache.calibration.store import Store
from otcache.progress import Stages
from otcache_core import Schedule, Trajectory
from otcache_core.contracts import (
    CostModel,
    Drift,
    Evaluation,
    Evaluator,
    FeatureProbe,
    SampleRequest,
)
from otcache_core.plugins import Registry
from otcache_core.recurrence import NotLinear, Recurrence

#: What a solver found at a budget between two schedules.
Solved = dict[tuple[int, Schedule, Schedule], Schedule | None]


@dataclass
class Ledger:
    """Denoiser evaluations spent, by stage."""

    stage: str = "record"
    nfe: dict[str, int] = field(default_factory=dict)

    def spend(self, nfe: int) -> None:
        """Add to the current stage."""
        self.nfe[self.stage] = self.nfe.get(self.stage, 0) + nfe


@dataclass
class Workbench:
    """What every stage works with."""

    recipe: Recipe
    registry: Registry
    evaluator: Evaluator
    trajectories: Sequence[Trajectory]
    stages: Stages
    ledger: Ledger
    objective: str
    fidelity: str
    fit: bool
    solved: Solved = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """N."""
        return self.trajectories[0].num_steps

    @property
    def rule(self) -> str:
        """The forecaster of a rung that no baseline won."""
        chosen = self.recipe.forecaster
        return "reuse" if chosen == FITTED and not self.fit else chosen

    def forecast(self, schedule: Schedule) -> Schedule:
        """The schedule by the recipe's forecaster; itself where weights are fitted while it runs."""
        chosen = self.recipe.forecaster
        return schedule if chosen == FITTED else forecast_by(chosen, schedule)

    @cached_property
    def searched(self) -> Evaluator:
        """What a search measures plain schedules on: each runs as the recipe's forecaster makes it."""
        chosen = self.recipe.forecaster
        return self.evaluator if chosen == FITTED else Forecasting(self.evaluator, chosen)

    @cached_property
    def cost_model(self) -> CostModel:
        """What prices spans."""
        samples = min(self.recipe.cost_samples, len(self.trajectories))
        return cost_model_of(self.registry, self.recipe.cost_model, samples=samples)


@dataclass(frozen=True, eq=False)
class Job:
    """What is recorded, by what, and where it is kept.

    Args:
        probe: records.
        target: what it records.
        request: samples, as the probe takes them.
        store: remembers finished work; None keeps nothing.
        stages: shows progress.
        ledger: counts evaluations.
        begun: called with N as soon as the first run tells it; raises to stop.
    """

    probe: FeatureProbe
    target: Any
    request: SampleRequest
    store: Store | None
    stages: Stages
    ledger: Ledger
    begun: Callable[[int], object]


def forecast_by(forecaster: str, schedule: Schedule) -> Schedule:
    """The steps of a schedule under another forecaster, which holds no weights."""
    return Schedule(schedule.num_steps, schedule.computed, forecaster)


@final
class Forecasting(Evaluator):
    """Hands schedules that reuse on to another evaluator as ones that forecast.

    A search tries steps and knows no forecasts but reuse and fitted ones; so what it asks for is measured
    as it will run. Results carry the schedules that were asked for.

    Args:
        inner: measures.
        forecaster: name of one that needs no weights.
    """

    def __init__(self, inner: Evaluator, forecaster: str) -> None:
        self._inner, self._forecaster = inner, forecaster

    @property
    def grid(self) -> NDArray[np.float64]:
        return self._inner.grid

    @property
    def num_samples(self) -> int:
        return self._inner.num_samples

    @property
    def objectives(self) -> tuple[str, ...]:
        return self._inner.objectives

    @property
    def recurrence(self) -> Recurrence | NotLinear:
        return self._inner.recurrence

    @property
    def largest_batch(self) -> int:
        return self._inner.largest_batch

    def replay(self, samples: Sequence[int]) -> NDArray[np.float64]:
        return self._inner.replay(samples)

    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        asked = [self._own(s) for s in schedules]
        done = self._inner.evaluate(asked, objective=objective, samples=samples, fit=fit)
        return done if fit else replace(done, schedules=tuple(schedules))

    def drift(
        self, schedules: Sequence[Schedule], *, samples: Sequence[int] | None = None
    ) -> Drift:
        return self._inner.drift([self._own(s) for s in schedules], samples=samples)

    def _own(self, schedule: Schedule) -> Schedule:
        reuses = schedule.forecaster == "reuse"
        return forecast_by(self._forecaster, schedule) if reuses else schedule
