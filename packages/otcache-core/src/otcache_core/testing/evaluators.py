"""The laws of an evaluator as tests."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.errors import shown
from otcache_core.schedule import Schedule
from otcache_core.testing.agreement import assert_equal, assert_near
from otcache_core.testing.kit import Conformance, refused
from otcache_core.testing.purity import RANDOM, random_state_of

STATE = "keep nothing from one call to the next that changes a result"


class EvaluatorConformance(Conformance, kit=True):
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
            shape = deviations.shape
            assert shape == (len(rows),), (
                f"replay({rows}) has shape {shape}: return one number a row"
            )
            assert (deviations <= self.deviation).all(), (
                f"recorded outputs of rows {rows} end {shown(deviations)} off the recorded result: step as "
                "the "
                "sampler does"
            )
        assert self.num_evaluations() == before, "replay calls the denoiser: take recorded outputs"

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
            what = f"errors of {schedule} are not those of accelerated runs: measure what an executor does"
            assert_near(errors, real, what, rtol=self.rtol)

    def test_fitted_errors_are_those_of_runs_with_each_samples_weights(self) -> None:
        evaluator = self.make_evaluator()
        found = evaluator.evaluate(self._schedules(evaluator), fit=True)
        for runs, errors in zip(found.ran, found.errors, strict=True):
            count = evaluator.num_samples
            assert len(runs) == count, (
                f"ran has {len(runs)} schedules of {count} samples: give one a sample"
            )
            for n, schedule in ((0, runs[0]), (-1, runs[-1])):
                real = self.accelerated_errors(schedule)[n]
                what = f"the error of {schedule} is not that of a run with its weights: report those that ran"
                assert_near(errors[n], real, what, rtol=self.rtol)

    def test_computing_every_step_is_no_error(self) -> None:
        evaluator = self.make_evaluator()
        full = Schedule.full(len(evaluator.grid) - 1)
        errors = evaluator.evaluate([full, *self._schedules(evaluator)]).errors
        assert (errors[0] == 0).all(), (
            f"the full run has errors {shown(errors[0])}: 0 where every step is computed"
        )
        assert (errors[1:] > 0).all(), "a run that skips steps has no error: skip them, and measure"

    def test_the_same_question_has_the_same_answer_and_price(self) -> None:
        evaluator = self.make_evaluator()
        schedules = self._schedules(evaluator)
        first = evaluator.evaluate(schedules)
        evaluator.evaluate(schedules[::-1], fit=True)
        for one in (evaluator, self.make_evaluator()):
            again = one.evaluate(schedules)
            assert_equal(again.errors, first.errors, f"errors differ once and again: {STATE}")
            assert (again.nfe, again.schedules) == (first.nfe, first.schedules), (
                f"nfe is {first.nfe} once and {again.nfe} again, of the same schedules: {STATE}"
            )

    def test_the_price_is_that_of_the_computed_steps_at_most(self) -> None:
        evaluator = self.make_evaluator()
        schedules = self._schedules(evaluator)
        most = evaluator.num_samples * sum(schedule.budget for schedule in schedules)
        nfe = evaluator.evaluate(schedules).nfe
        assert 0 < nfe <= most, f"nfe is {nfe}, {most} at most: count the evaluations that are made"

    def test_samples_are_those_asked_for(self) -> None:
        evaluator = self.make_evaluator()
        schedules = self._schedules(evaluator)
        errors = evaluator.evaluate(schedules).errors
        wanted = (len(schedules), evaluator.num_samples)
        assert errors.shape == wanted, (
            f"errors have shape {errors.shape}: return (schedules, samples), {wanted}"
        )
        for rows in ([evaluator.num_samples - 1], list(range(evaluator.num_samples))[::-1]):
            found = evaluator.evaluate(schedules, samples=rows).errors
            what = f"errors of samples {rows} are those of others: keep the order that is asked for"
            assert_near(found, errors[:, rows], what, rtol=self.rtol)

    def test_schedules_do_not_influence_each_other(self) -> None:
        evaluator = self.make_evaluator()
        schedules = self._schedules(evaluator)
        together = evaluator.evaluate(schedules).errors
        for schedule, errors in zip(schedules, together, strict=True):
            alone = self.make_evaluator().evaluate([schedule]).errors[0]
            what = f"{schedule} has other errors beside others than alone: run each by itself"
            assert_near(errors, alone, what, rtol=self.rtol)

    def test_an_unknown_objective_is_refused(self) -> None:
        evaluator = self.make_evaluator()
        with refused("an unknown objective", "objective"):
            evaluator.evaluate(self._schedules(evaluator), objective="no such objective")

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        """Or as runs of the plain target leave it."""
        evaluator = self.make_evaluator()
        schedules = self._schedules(evaluator)
        evaluator.evaluate(schedules)
        plain = random_state_of(lambda: self.accelerated_errors(schedules[0]))
        assert random_state_of(lambda: evaluator.evaluate(schedules[:1])) == plain, RANDOM
