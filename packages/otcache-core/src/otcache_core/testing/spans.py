"""Conformance tests of plugins that work span by span: cost models and forecasters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.contracts.planning import CostModel, Forecaster, SpanCosts
from otcache_core.errors import OtcacheError, shown
from otcache_core.schedule import Schedule, Span
from otcache_core.testing.assertions import (
    assert_equal,
    assert_near,
    snapshot,
    unchanged,
    under_two_random_states,
)
from otcache_core.testing.kit import Conformance, refused
from otcache_core.testing.toy import CountingEvaluator, ToySampler
from otcache_core.transport import uniform_steps

Floats = NDArray[np.float64]
STATE = "keep nothing from one call to the next"
RANDOM = "with the random state of the process: draw from a generator of your own"


class CostModelConformance(Conformance, kit=True):
    """Tests for a :class:`~otcache_core.contracts.CostModel`; override :meth:`make_cost_model`.

    Attributes:
        sampler: makes the recorded runs.
        rtol: relative tolerance for two costs that should be equal.
    """

    sampler: ToySampler = ToySampler(num_steps=8, num_samples=3)
    rtol: float = 1e-9

    @abstractmethod
    def make_cost_model(self) -> CostModel:
        """Return a fresh cost model."""

    def _measure(self, evaluator: Evaluator | None = None) -> SpanCosts:
        evaluator = evaluator or self.sampler.evaluator()
        return self.make_cost_model().measure(self.sampler.trajectories(), evaluator)

    def _costs_of(self, *starts: int, model: CostModel | None = None) -> Floats:
        """Return the costs measured on the samples with these initial states."""
        sampler = replace(self.sampler, num_samples=len(starts), starts=starts)
        model = model or self.make_cost_model()
        return model.measure(sampler.trajectories(), sampler.evaluator()).costs

    def test_there_is_a_cost_for_every_span(self) -> None:
        """Costs are 0 for spans of length one, never negative, and finite for some longer span."""
        n, costs = self.sampler.num_steps, self._measure().costs
        wanted = (n, n + 1)
        assert costs.shape == wanted, (
            f"costs have shape {costs.shape}: return (N, N + 1) = {wanted}"
        )
        ones = np.diagonal(costs, offset=1)
        assert not ones.any(), f"spans of length one cost {shown(ones)}: give 0, they skip nothing"
        above = costs[np.triu_indices(n, k=1, m=n + 1)]
        assert (above >= 0).all(), f"a cost is {above.min()}: give numbers of 0 or more, or inf"
        longer = costs[np.triu_indices(n, k=2, m=n + 1)]
        assert np.isfinite(longer).any(), "every cost is inf: no schedule could skip anything"

    def test_a_cost_model_can_be_used_again(self) -> None:
        model, count = self.make_cost_model(), self.sampler.num_samples
        first = self._costs_of(*range(count), model=model)
        other = self._costs_of(*range(count, 2 * count), model=model)
        assert not np.array_equal(other, first), (
            f"other samples have the costs of the first: {STATE}"
        )
        for costs in (self._costs_of(*range(count), model=model), self._costs_of(*range(count))):
            assert_equal(costs, first, f"costs differ after other samples: {STATE}")

    def test_as_many_samples_count_as_are_reported(self) -> None:
        """Changing a sample changes the costs, for ``samples`` of them; at least two if there are several."""
        count, reported = self.sampler.num_samples, self._measure().samples
        costs = self._costs_of(*range(count))
        counting = 0
        for n in range(count):
            starts = [*range(n), count + n, *range(n + 1, count)]
            counting += not np.array_equal(self._costs_of(*starts), costs)
        assert counting == reported, (
            f"{reported} samples are reported, and {counting} of {count} change the costs: report those used"
        )
        assert counting >= min(2, count), f"{counting} sample of {count} counts: use two at least"

    def test_the_order_of_samples_does_not_matter(self) -> None:
        """Only the samples that the model uses are reordered."""
        count = self._measure().samples
        forwards, backwards = self._costs_of(*range(count)), self._costs_of(*reversed(range(count)))
        what = "costs depend on the order of the samples: take their mean"
        assert_near(backwards, forwards, what, rtol=self.rtol, atol=1e-12)

    def test_trajectories_may_be_read_only_and_are_not_changed(self) -> None:
        """Read-only arrays, as memory maps are, give the same costs as writable ones; neither are changed."""
        evaluator, measured = self.sampler.evaluator(), []
        for writable in (True, False):
            trajectories = self.sampler.trajectories()
            for array in (a for t in trajectories for a in (t.states, t.outputs)):
                array.setflags(write=writable)
            with unchanged(trajectories=trajectories, grid_of_the_evaluator=evaluator.grid):
                found = self.make_cost_model().measure(trajectories, evaluator)
            measured.append(snapshot(found.costs))
        what = "costs of read-only arrays differ from those of writable ones: work on copies"
        assert measured[0] == measured[1], what

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        first, second = under_two_random_states(lambda: self._measure().costs)
        assert_equal(first, second, f"costs differ {RANDOM}")

    def test_the_nfe_is_what_was_spent(self) -> None:
        counting = CountingEvaluator(self.sampler.evaluator())
        measured = self._measure(counting)
        assert measured.nfe == counting.nfe, (
            f"{counting.nfe} evaluations were spent, and nfe is {measured.nfe}: add up the nfe of each "
            "Evaluation"
        )
        count, most = measured.samples, self.sampler.num_samples
        assert 1 <= count <= most, f"samples is {count} of {most}: report those that count"

    def test_applying_the_costs_keeps_the_computed_steps(self) -> None:
        n, measured = self.sampler.num_steps, self._measure()
        for budget in range(1, n + 1):
            schedule = Schedule(num_steps=n, computed=uniform_steps(n, budget))
            applied = measured.applied(schedule)
            assert (applied.num_steps, applied.computed) == (n, schedule.computed), (
                f"applied(schedule) has steps {applied.computed}, the schedule {schedule.computed}: change "
                "its forecaster and weights alone"
            )

    def test_no_trajectory_is_refused(self) -> None:
        with refused("a measurement of no trajectory"):
            self.make_cost_model().measure([], self.sampler.evaluator())

    def test_without_an_evaluator_it_works_or_says_so(self) -> None:
        try:
            measured = self.make_cost_model().measure(self.sampler.trajectories())
        except OtcacheError as error:
            reason = str(error).lower()
        else:
            reason = "" if measured.nfe else "no evaluator was needed"
        assert "evaluator" in reason, (
            f"without an evaluator it says {shown(reason)}: measure without it and spend nothing "
            "(nfe = 0), or raise an OtcacheError that names the evaluator"
        )


class ForecasterConformance(Conformance, kit=True):
    """Tests for a :class:`~otcache_core.contracts.Forecaster`.

    Override :meth:`make_forecaster`, and :meth:`weights` if it reads weights from the span.
    """

    num_steps: int = 12

    @abstractmethod
    def make_forecaster(self) -> Forecaster:
        """Return a fresh forecaster."""

    def weights(self, history: int) -> tuple[float, ...]:
        """Return the stored weights of a span with ``history`` earlier computed steps."""
        return ()

    def _cases(self) -> Iterator[tuple[Span, Floats]]:
        """Yield spans of one run in order, on several grids, with the grid."""
        n = self.num_steps
        even = np.linspace(1.0, 0.0, n + 1)
        ends = [(0, 4), (0, n), (3, 4), (4, 7), (5, 9), (n - 1, n)]
        histories: list[tuple[int, ...]] = [(), (), (0,), (0,), (3, 2, 0), (4, 0)]
        for grid in (even, even**2, np.repeat(even, 2)[: n + 1], 1.0 - even):
            for (start, stop), history in zip(ends, histories, strict=True):
                yield Span(start, stop, history, self.weights(len(history))), grid

    def test_the_table_has_a_row_for_each_skipped_step(self) -> None:
        """The table is finite too, even on a grid some of whose points coincide."""
        for span, grid in self._cases():
            table = self.make_forecaster().coefficients(span, grid)
            assert isinstance(table, np.ndarray), f"coefficients are {shown(table)}: give an array"
            rows, most = len(span.skipped), 1 + len(span.history)
            fits = table.ndim == 2 and table.shape[0] == rows and 1 <= table.shape[1] <= most
            assert fits, (
                f"the table of {span} has shape {table.shape}: "
                f"return {rows} rows, one per skipped step, of 1 to {most} columns, one per output"
            )
            assert table.dtype.kind == "f", (
                f"the table is of {table.dtype}: give floating-point numbers"
            )
            assert np.isfinite(table).all(), (
                f"the table of {span} on the grid {shown(grid)} is not finite: fall back to reuse where "
                "points coincide"
            )

    def test_a_table_does_not_depend_on_what_was_asked_before(self) -> None:
        """The order of calls does not matter, to the same forecaster or to a new one."""
        cases, forecaster = list(self._cases()), self.make_forecaster()
        forwards = [forecaster.coefficients(span, grid) for span, grid in cases]
        for one in (forecaster, self.make_forecaster()):
            for first, (span, grid) in reversed(list(zip(forwards, cases, strict=True))):
                for _ in range(2):
                    again = one.coefficients(span, grid)
                    assert_equal(again, first, f"a table differs after other ones: {STATE}")

    def test_nothing_after_the_span_is_looked_at(self) -> None:
        """A table is the same whatever the grid does after s_j, where span (k, j) ends."""
        for span, grid in self._cases():
            other = grid.copy()
            other[span.stop + 1 :] = np.linspace(5.0, 7.0, self.num_steps - span.stop)
            here = self.make_forecaster().coefficients(span, grid)
            there = self.make_forecaster().coefficients(span, other)
            what = f"the table of {span} looks ahead: use s_0 .. s_{span.stop} alone"
            assert_equal(there, here, what)

    def test_a_grid_may_be_read_only_and_is_not_changed(self) -> None:
        """Neither a read-only grid nor a writable one is changed."""
        for span, grid in self._cases():
            for writable in (True, False):
                grid.setflags(write=writable)
                with unchanged(grid=grid):
                    self.make_forecaster().coefficients(span, grid)

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        def tables() -> list[Floats]:
            return [self.make_forecaster().coefficients(*case) for case in self._cases()]

        for first, second in zip(*under_two_random_states(tables), strict=True):
            assert_equal(second, first, f"a table differs {RANDOM}")
