"""Budgets between rungs at which interpolation cannot be trusted: they are measured as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from otcache.calibration_stages import Workbench
from otcache.candidates import UNIFORM, UNSEEN, cost
from otcache.comparison import clearly_below, compare, log_errors, measured
from otcache.interpolating import interpolated
from otcache.planning import doubtful
from otcache_core import Schedule
from otcache_core.calibration import Calibration, Rung
from otcache_core.warp import uniform_steps

#: The candidate whose steps are those that the policy interpolates.
BETWEEN = "between rungs"


def fill_gaps(bench: Workbench, calibration: Calibration) -> Calibration:
    """Stage 5: fit the interpolated steps of doubtful budgets, and compare them with uniform reuse.

    Doubtful is a budget whose interpolated schedule does to the recorded outputs more than half of what
    uniform reuse does (:func:`~otcache.planning.doubtful`). From the smallest up, while the recipe's
    allowance lasts; what is left doubtful then is uniform reuse in the policy. Each new rung counts for
    the budgets that follow.
    """
    bench.ledger.stage = "gaps"
    bench.ledger.spend(0)
    n = len(bench.trajectories)
    left = int(bench.recipe.gap_runs * bench.num_steps * n)
    tried: set[int] = set()
    total = len(doubtful(calibration))
    with bench.stages.stage("measuring between rungs", total) as advance:
        while waiting := [(b, s) for b, s in doubtful(calibration).items() if b not in tried]:
            budget, schedule = waiting[0]
            tried.add(budget)
            spent = cost(schedule, n) + cost(_uniform(schedule), n)
            if spent <= left:
                left -= spent
                calibration = _with(calibration, _rung(bench, schedule))
                calibration = interpolated(bench, calibration)
            advance(min(len(tried), total), total)
        advance(total, total)
    return replace(calibration, nfe=dict(bench.ledger.nfe))


def _rung(bench: Workbench, schedule: Schedule) -> Rung:
    """Fit the steps of a schedule, and keep it where it is clearly below uniform reuse."""
    fitted, uniform = compare(bench, {BETWEEN: schedule}), _uniform(schedule)
    logs = log_errors(bench.evaluator.evaluate([uniform], objective=bench.fidelity).errors)[0]
    entry = measured(logs)
    table = fitted.candidates | {UNIFORM: entry}
    below = clearly_below(fitted.logs, logs)
    if len(logs) == 1:  # which the fit has seen
        below = bool(fitted.logs.mean() < logs.mean() - 2 * math.log(UNSEEN))
    if below or entry.error is None:
        return Rung(fitted.schedule, fitted.error, BETWEEN, table)
    return Rung(uniform, entry.error, UNIFORM, table)


def _uniform(schedule: Schedule) -> Schedule:
    return Schedule(schedule.num_steps, uniform_steps(schedule.num_steps, schedule.budget))


def _with(calibration: Calibration, rung: Rung) -> Calibration:
    rungs: Sequence[Rung] = (*calibration.ladder, rung)
    return replace(calibration, ladder=tuple(sorted(rungs, key=lambda r: r.schedule.budget)))
