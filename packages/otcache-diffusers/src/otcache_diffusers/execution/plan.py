"""Which cached outputs fill which skipped step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import Forecaster
from otcache_core.errors import OtcacheError
from otcache_core.forecasters.named import NamedForecaster
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
        refusal: why the steps of some spans cannot be forecast, and are computed; "" where all can.
    """

    forecasts: dict[int, Forecast]
    last_use: dict[int, int]
    refusal: str = ""

    @classmethod
    def of(
        cls, schedule: Schedule, branch: str, forecaster: Forecaster, grid: NDArray[np.float64]
    ) -> Plan:
        """Ask the forecaster once per span."""
        if not isinstance(forecaster, NamedForecaster):
            forecaster = NamedForecaster(forecaster, repr(schedule.forecaster))
        forecasts: dict[int, Forecast] = {}
        refused: dict[str, str] = {}
        for span in schedule.spans(branch):
            table = _coefficients(span, forecaster, grid) if span.skipped else None
            if isinstance(table, str):
                refused[f"({span.start} -> {span.stop})"] = table
            elif table is not None:
                forecasts.update(_fill(span, table))
        last_use = {k: t for t, forecast in forecasts.items() for k in forecast.steps}
        return cls(forecasts, last_use, _refusal(forecaster.title, refused))


def _coefficients(
    span: Span, forecaster: NamedForecaster, grid: NDArray[np.float64]
) -> NDArray[np.float64] | str:
    """Return A, shape (skipped steps, outputs); where the forecaster gives none, what it did instead."""
    table = forecaster.table(span, grid)
    if isinstance(table, OtcacheError):
        return f"{type(table).__name__}: {table}"
    if isinstance(table, str) or np.isfinite(table).all():
        return table
    return str(table.tolist())


def _refusal(title: str, refused: dict[str, str]) -> str:
    """Say what a forecaster gave instead of coefficients, by the first of the spans; "" for none."""
    if not refused:
        return ""
    spans = f"the span{'s' if len(refused) > 1 else ''} {', '.join(refused)}"
    return (
        f"forecaster {title} must give finite coefficients for {spans}, got "
        f"{next(iter(refused.values()))}: use another forecaster, or another grid= if two steps of yours "
        "are alike."
    )


def _fill(span: Span, table: NDArray[np.float64]) -> dict[int, Forecast]:
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
