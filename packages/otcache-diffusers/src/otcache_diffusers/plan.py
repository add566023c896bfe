"""Which cached outputs fill which skipped step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import Forecaster
from otcache_core.errors import ExecutionError
from otcache_core.schedule import Schedule, Span


@dataclass(frozen=True)
class Forecast:
    """The output of a skipped step: the sum of coefficient times output over computed steps.

    Attributes:
        steps: k, k_1, ...; those with coefficient 0 are left out unless all are.
        coefficients: A_{t,0}, A_{t,1}, ...
    """

    steps: tuple[int, ...]
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """One branch of a schedule on one grid.

    Attributes:
        forecasts: by skipped step.
        last_use: by computed step whose output is needed later, the last step that needs it.
    """

    forecasts: dict[int, Forecast]
    last_use: dict[int, int]

    @classmethod
    def of(
        cls, schedule: Schedule, branch: str, forecaster: Forecaster, grid: NDArray[np.float64]
    ) -> Plan:
        """Ask the forecaster once per span.

        Raises:
            ExecutionError: if it gives anything but finite numbers.
        """
        forecasts: dict[int, Forecast] = {}
        for span in schedule.spans(branch):
            if span.skipped:
                forecasts.update(_fill(span, forecaster, grid, schedule.forecaster))
        last_use = {k: t for t, forecast in forecasts.items() for k in forecast.steps}
        return cls(forecasts, last_use)


def _fill(
    span: Span, forecaster: Forecaster, grid: NDArray[np.float64], name: str
) -> dict[int, Forecast]:
    table = np.asarray(forecaster.coefficients(span, grid), dtype=np.float64)
    if not np.isfinite(table).all():
        raise ExecutionError(
            f"forecaster {name!r} must give finite coefficients for the span ({span.start} -> "
            f"{span.stop}), got {table.tolist()}: use another forecaster, or another grid= if two steps of "
            "yours are alike."
        )
    sources = (span.start, *span.history)
    # A forecast of zero still has the form of an output.
    rows = [
        [(k, float(a)) for k, a in zip(sources, row, strict=False) if a] or [(span.start, 0.0)]
        for row in table
    ]
    return {
        t: Forecast(tuple(k for k, _ in row), tuple(a for _, a in row))
        for t, row in zip(span.skipped, rows, strict=True)
    }
