"""The laws of a forecaster as tests."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.errors import shown
from otcache_core.schedule import Span
from otcache_core.testing.agreement import assert_equal
from otcache_core.testing.kit import Conformance
from otcache_core.testing.purity import unchanged, under_two_random_states

STATE = "keep nothing from one call to the next"
Floats = np.typing.NDArray[np.float64]


class ForecasterConformance(Conformance, kit=True):
    """Laws of :class:`~otcache_core.contracts.Forecaster`.

    Override :meth:`make_forecaster`, and :meth:`weights` if it reads weights from the span.
    """

    num_steps: int = 12

    @abstractmethod
    def make_forecaster(self) -> Forecaster:
        """A fresh forecaster."""

    def weights(self, history: int) -> tuple[float, ...]:
        """Stored weights of a span with this many earlier computed steps."""
        return ()

    def _spans(self) -> list[Span]:
        plain = [
            Span(0, 4),
            Span(0, self.num_steps),
            Span(3, 4, (0,)),
            Span(4, 7, (0,)),
            Span(5, 9, (3, 2, 0)),
            Span(self.num_steps - 1, self.num_steps, (4, 0)),
        ]
        return [Span(p.start, p.stop, p.history, self.weights(len(p.history))) for p in plain]

    def _grids(self) -> list[Floats]:
        even = np.linspace(1.0, 0.0, self.num_steps + 1)
        return [even, even**2, np.repeat(even, 2)[: self.num_steps + 1], 1.0 - even]

    def test_the_table_has_a_row_for_each_skipped_step(self) -> None:
        for grid in self._grids():
            for span in self._spans():
                table = self.make_forecaster().coefficients(span, grid)
                assert isinstance(table, np.ndarray), (
                    f"coefficients give {shown(table)}: return an array"
                )
                rows, most = len(span.skipped), 1 + len(span.history)
                fits = table.ndim == 2 and table.shape[0] == rows and 1 <= table.shape[1] <= most
                assert fits, (
                    f"the table of {span} has shape {table.shape}: "
                    f"return {rows} rows, one a skipped step, of 1 to {most} columns, one an output"
                )

    def test_coefficients_are_finite_also_where_grid_points_coincide(self) -> None:
        for grid in self._grids():
            for span in self._spans():
                table = self.make_forecaster().coefficients(span, grid)
                assert np.isfinite(table).all(), (
                    f"the table of {span} on the grid {shown(grid)} is not finite: fall back to reuse where "
                    "points coincide"
                )

    def test_coefficients_are_real_numbers(self) -> None:
        for span in self._spans():
            table = self.make_forecaster().coefficients(span, self._grids()[0])
            kind = table.dtype.kind
            assert kind == "f", f"the table is of type {table.dtype}: return floating-point numbers"

    def test_it_is_pure(self) -> None:
        forecaster = self.make_forecaster()
        for grid in self._grids():
            with unchanged(grid=grid):
                for span in self._spans():
                    first = forecaster.coefficients(span, grid)
                    again = forecaster.coefficients(span, grid)
                    assert_equal(
                        again, first, f"the table of {span} differs once and again: {STATE}"
                    )

    def test_a_table_does_not_depend_on_what_was_asked_before(self) -> None:
        """Neither of this forecaster nor of another; a run asks once for each span, in order."""
        asked = [(span, grid) for grid in self._grids() for span in self._spans()]
        forecaster = self.make_forecaster()
        forwards = [forecaster.coefficients(span, grid) for span, grid in asked]
        again, other = forecaster, self.make_forecaster()
        for one in (again, other):
            backwards = [one.coefficients(span, grid) for span, grid in reversed(asked)]
            for first, second in zip(forwards, reversed(backwards), strict=True):
                assert_equal(second, first, f"a table differs after other ones: {STATE}")

    def test_nothing_after_the_span_is_looked_at(self) -> None:
        """A table is the same whatever the grid does after s_j, where span (k, j) ends."""
        for grid in self._grids():
            for span in self._spans():
                other = grid.copy()
                other[span.stop + 1 :] = np.linspace(5.0, 7.0, self.num_steps - span.stop)
                here = self.make_forecaster().coefficients(span, grid)
                there = self.make_forecaster().coefficients(span, other)
                what = f"the table of {span} looks ahead: use s_0 .. s_{span.stop} alone"
                assert_equal(there, here, what)

    def test_a_grid_may_be_read_only(self) -> None:
        grid = self._grids()[1]
        grid.setflags(write=False)
        for span in self._spans():
            self.make_forecaster().coefficients(span, grid)

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        def tables() -> list[Floats]:
            grid = self._grids()[1]
            return [self.make_forecaster().coefficients(span, grid) for span in self._spans()]

        for first, second in zip(*under_two_random_states(tables), strict=True):
            what = "a table differs with the random state of the process: draw nothing at random"
            assert_equal(second, first, what)
