"""What a schedule's forecasts do to recorded outputs, without a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import Forecaster
from otcache_core.contracts.planning import LOOKED_AT
from otcache_core.forecasters import Fitted, Linear, Reuse, VariableOrder
from otcache_core.schedule import Span
from otcache_core.transport import uniform_steps

#: Share of uniform reuse's open-loop error above which forecasts that were not measured are doubtful.
DOUBTFUL = 0.5
_RULES: dict[str, Forecaster] = {
    "reuse": Reuse(),
    "linear": Linear(),
    "fitted": Fitted(),
    "variable-order": VariableOrder(),
    "variable-order-flow": VariableOrder(flow=True),
}


def open_loop_error(schedule: Schedule, calibration: Calibration) -> float:
    r"""Return how far a schedule's forecasts of recorded outputs move the result; needs no network.

    .. math:: \Big( E \| \sum_{t \text{ skipped}} R_t (\hat v_t - v_t) \|^2 \Big)^{1/2}
        = (\beta^\top H \beta)^{1/2}

    with v the recorded outputs, so as if computed steps did not feel the states that forecasts lead to;
    R_t the output weights and H the Gram matrix of the calibration. Unweighted by branches; where a run
    chooses orders, they are those of the mean over samples. It shows what is interpolated wrongly, not which
    of two good schedules is better.

    Args:
        schedule: of N steps.
        calibration: with output weights.

    Returns:
        Root mean square over elements and samples; 0 where output weights or the forecaster are not known.
    """
    rule, output_weights = _RULES.get(schedule.forecaster), calibration.output_weights
    if rule is None or output_weights is None:
        return 0.0
    beta = np.zeros(schedule.num_steps)
    for span in schedule.spans():
        if not span.skipped:
            continue
        rows = _rows(rule, span, calibration)
        for t, row in zip(span.skipped, rows, strict=True):
            beta[t] -= output_weights[t]
            for k, a in zip((span.start, *span.history), row, strict=False):
                beta[k] += output_weights[t] * a
    return math.sqrt(max(0.0, float(beta @ calibration.gram @ beta)))


def _rows(rule: Forecaster, span: Span, calibration: Calibration) -> Sequence[Sequence[float]]:
    """Return the coefficients of each skipped step; orders are chosen by mean inner products."""
    orders = rule.orders(span, calibration.grid)
    if orders is None:
        table: list[list[float]] = rule.coefficients(span, calibration.grid).tolist()
        return table
    steps = [span.start, *span.history][:LOOKED_AT]
    h, outputs = calibration.gram[np.ix_(steps, steps)], np.eye(len(steps))
    change, *before = outputs[:-1] - outputs[1:]

    def size(v: Any) -> float:
        return math.sqrt(max(0.0, float(v @ h @ v))) or 1.0

    c = float(change @ h @ before[0]) / (size(change) * size(before[0])) if before else 0.0
    weights = [ramp.at(c, size(change) / size(outputs[0])) for ramp in orders.ramps]
    return [orders.coefficients(row, weights) for row in range(len(span.skipped))]


def trusted(schedule: Schedule, calibration: Calibration) -> Schedule:
    """Return the schedule, or uniform reuse of its budget if the schedule is doubtful."""
    n = schedule.num_steps
    uniform = Schedule(n, uniform_steps(n, schedule.budget))
    error, uniform_error = (open_loop_error(s, calibration) for s in (schedule, uniform))
    share = DOUBTFUL if schedule.forecaster != "reuse" else 1.0
    return uniform if error > share * uniform_error else schedule
