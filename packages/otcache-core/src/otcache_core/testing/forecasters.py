"""The laws of a forecaster as tests."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.schedule import Span


class ForecasterConformance(ABC):
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

    def _grids(self) -> list[np.typing.NDArray[np.float64]]:
        even = np.linspace(1.0, 0.0, self.num_steps + 1)
        return [even, even**2, np.repeat(even, 2)[: self.num_steps + 1], 1.0 - even]

    def test_the_table_has_a_row_for_each_skipped_step(self) -> None:
        for grid in self._grids():
            for span in self._spans():
                table = self.make_forecaster().coefficients(span, grid)
                assert table.ndim == 2
                assert table.shape[0] == len(span.skipped)
                assert 1 <= table.shape[1] <= 1 + len(span.history)

    def test_coefficients_are_finite_also_where_grid_points_coincide(self) -> None:
        for grid in self._grids():
            for span in self._spans():
                assert np.isfinite(self.make_forecaster().coefficients(span, grid)).all()

    def test_it_is_pure(self) -> None:
        forecaster = self.make_forecaster()
        for grid in self._grids():
            before = grid.copy()
            for span in self._spans():
                first = forecaster.coefficients(span, grid)
                np.testing.assert_array_equal(first, forecaster.coefficients(span, grid))
            np.testing.assert_array_equal(grid, before)
