"""The laws of an evaluator as tests."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.schedule import Schedule


class EvaluatorConformance(ABC):
    """Laws of :class:`~otcache_core.contracts.Evaluator`: it measures what the probe recorded.

    Attributes:
        rtol: relative difference of two errors that is rounding.
        deviation: relative deviation of a replayed result that is rounding.
    """

    rtol: float = 1e-3
    deviation: float = 1e-5

    @abstractmethod
    def make_evaluator(self) -> Evaluator:
        """A fresh evaluator over at least two samples; two of them measure the same."""

    @abstractmethod
    def accelerated_errors(self, schedule: Schedule) -> NDArray[np.float64]:
        """Return the error of a real accelerated run of every sample, by the default objective.

        The plain target is run in full and with the executor, without the evaluator.
        """

    def num_evaluations(self) -> int | None:
        """Return how often the denoiser was called so far, None where nobody counts."""
        return None

    def _schedules(self, evaluator: Evaluator) -> list[Schedule]:
        n = len(evaluator.grid) - 1
        steps = [(0, n // 2), (0, 1, n // 2), (0, 1, n // 3, n // 2, n - 2)]
        return [Schedule(n, tuple(sorted(set(computed)))) for computed in steps]

    def test_recorded_outputs_end_in_the_recorded_result(self) -> None:
        evaluator = self.make_evaluator()
        evaluator.replay([0])
        before = self.num_evaluations()
        largest = [row % evaluator.num_samples for row in range(evaluator.largest_batch)]
        for rows in ([0], [evaluator.num_samples - 1], [0, 0, 1], largest):
            deviations = evaluator.replay(rows)
            assert deviations.shape == (len(rows),)
            assert (deviations <= self.deviation).all(), f"rows {rows} end {deviations} off"
        assert self.num_evaluations() == before

    def test_errors_are_those_of_accelerated_runs(self) -> None:
        evaluator = self.make_evaluator()
        schedules = [
            Schedule(s.num_steps, s.computed, name)
            for s in self._schedules(evaluator)
            for name in ("reuse", "linear")
        ]
        found = evaluator.evaluate(schedules)
        for schedule, errors in zip(found.schedules, found.errors, strict=True):
            real = self.accelerated_errors(schedule)
            np.testing.assert_allclose(errors, real, rtol=self.rtol, err_msg=str(schedule))

    def test_fitted_errors_are_those_of_runs_with_each_samples_weights(self) -> None:
        evaluator = self.make_evaluator()
        found = evaluator.evaluate(self._schedules(evaluator), fit=True)
        for runs, errors in zip(found.ran, found.errors, strict=True):
            assert len(runs) == evaluator.num_samples
            for n, schedule in ((0, runs[0]), (-1, runs[-1])):
                real = self.accelerated_errors(schedule)[n]
                np.testing.assert_allclose(errors[n], real, rtol=self.rtol, err_msg=str(schedule))
