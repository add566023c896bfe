"""An evaluator that runs plain schedules by a forecaster of choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Schedule
from otcache_core.contracts import Drift, Evaluation, Evaluator
from otcache_core.recurrence import NotLinear, Recurrence


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
