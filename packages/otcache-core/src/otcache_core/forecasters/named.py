"""A forecaster by the name that a schedule holds, whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.forecaster import Forecaster
from otcache_core.errors import OtcacheError, PluginError, expected
from otcache_core.schedule import Span

if TYPE_CHECKING:
    from otcache_core.plugins.registry import Registry


@final
class NamedForecaster(Forecaster):
    """Pass on the tables of a forecaster, and name it where it gives none.

    Args:
        forecaster: perhaps a plugin's; whatever it raises, SystemExit too, is told as an error of its own.
        title: of it in messages, as ``'mine' of 'my-package'``.
    """

    def __init__(self, forecaster: Forecaster, title: str) -> None:
        self._forecaster, self.title = forecaster, title

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """The table A of one span, as :meth:`Forecaster.coefficients`.

        Raises:
            PluginError: naming the forecaster, if it gives no table of that shape.
        """
        table = self.table(span, grid)
        if isinstance(table, OtcacheError):
            raise table
        if isinstance(table, str):
            what = f"what forecaster {self.title} gives for the span ({span.start} -> {span.stop})"
            raise PluginError(expected(what, table, "a table of coefficients"))
        return table

    def table(
        self, span: Span, grid: NDArray[np.float64]
    ) -> NDArray[np.float64] | OtcacheError | str:
        """Return the table of a span; where there is none, what the forecaster did instead."""
        from otcache_core.plugins.info import ANY, reason_of

        try:
            with np.errstate(all="ignore"):
                found = self._forecaster.coefficients(span, grid.copy())
                table = np.array(found, dtype=np.float64)
        except OtcacheError as error:  # it says what to do
            return error
        except ANY as error:
            return reason_of(error)
        fits = table.ndim == 2 and len(table) == len(span.skipped)
        if not (fits and 1 <= table.shape[1] <= 1 + len(span.history)):
            return f"an array of shape {table.shape}"
        return table


def forecaster_of(registry: Registry, name: str) -> NamedForecaster:
    """Make the forecaster of a name.

    Raises:
        PluginError: naming it and its distribution, if there is none of this name, or it cannot be made.
    """
    from otcache_core.plugins.discovery import is_own
    from otcache_core.plugins.info import ANY, reason_of

    distribution, _, short = registry.resolve("forecasters", name).rpartition("/")
    title = repr(short) if is_own(distribution) else f"{short!r} of {distribution!r}"
    try:
        made = registry.create("forecasters", f"{distribution}/{short}")
    except ANY as error:
        reason = str(error) if isinstance(error, OtcacheError) else reason_of(error)
        raise PluginError(f"forecaster {title} cannot be made: {reason}") from error
    return NamedForecaster(made, title)
