"""Budgets between the rungs of a calibration: their steps by the chosen solver, and those that are measured.

What a policy would interpolate between two rungs was not measured. Where that cannot be trusted,
:func:`fill_gaps` makes a rung of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from otcache.calibration.contest import (
    UNSEEN,
    Workbench,
    best_of,
    by_metric,
    candidate,
    clearly_below,
    cost,
    log_errors,
)
from otcache.calibration.recipe import QUANTILE, UNIFORM, solver_of
from otcache.planning import doubtful, nodes_of, problem_of
from otcache_core import Schedule
from otcache_core.calibration import Calibration, Rung
from otcache_core.targets import Measured
from otcache_core.transport import uniform_steps

#: The candidate whose steps are those that the policy interpolates.
BETWEEN = "between rungs"


def fill_gaps(bench: Workbench, calibration: Calibration) -> Calibration:
    """Fit the interpolated steps of doubtful budgets, and compare them with uniform reuse.

    Doubtful is a budget whose interpolated schedule does to the recorded outputs more than half of what
    uniform reuse does (:func:`~otcache.planning.doubtful`). From the smallest up, while the recipe's
    allowance lasts; the policy takes uniform reuse at those that stay doubtful. Each new rung counts for
    the budgets that follow.
    """
    calibration = interpolated(bench, calibration)
    left, n = bench.allowance("gaps", bench.recipe.gap_runs), len(bench.trajectories)
    tried, total = set[int](), len(doubtful(calibration))
    with bench.stages.stage("measuring between rungs", total) as advance:
        while waiting := [(b, s) for b, s in doubtful(calibration).items() if b not in tried]:
            budget, schedule = waiting[0]
            tried.add(budget)
            spent = cost(schedule, n) + cost(_uniform(schedule), n)
            if spent <= left:
                left -= spent
                rungs = [*calibration.ladder, _rung(bench, schedule)]
                ladder = tuple(sorted(rungs, key=lambda rung: rung.schedule.budget))
                calibration = interpolated(bench, replace(calibration, ladder=ladder))
            advance(min(len(tried), total), total)
        advance(total, total)
    return replace(calibration, nfe=dict(bench.spent.nfe))


def _rung(bench: Workbench, schedule: Schedule) -> Rung:
    """Fit the steps of a schedule, and keep it if it is clearly below uniform reuse."""
    fitted, uniform = best_of(bench, {BETWEEN: schedule}), _uniform(schedule)
    done = bench.evaluator.evaluate([uniform], objective=bench.fidelity)
    logs = log_errors(done.errors)[0]
    entry = candidate(logs)
    table = fitted.candidates | {UNIFORM: entry}
    below = clearly_below(fitted.logs, logs)
    if len(logs) == 1:  # which the fit has seen
        below = bool(fitted.logs.mean() < logs.mean() - 2 * math.log(UNSEEN))
    if below or entry.error is None:
        known = Measured.of(schedule.budget, fitted.errors).errors
        return Rung(fitted.schedule, fitted.error, BETWEEN, table, known)
    every = by_metric(done, bench.fidelity).items()
    known = Measured.of(schedule.budget, {name: found[0] for name, found in every}).errors
    return Rung(uniform, entry.error, UNIFORM, table, known)


def _uniform(schedule: Schedule) -> Schedule:
    return Schedule(schedule.num_steps, uniform_steps(schedule.num_steps, schedule.budget))


def interpolated(bench: Workbench, calibration: Calibration) -> Calibration:
    """Fill in the steps of every budget between two rungs that a policy keeps.

    Each is the chosen solver's between these two rungs, as a policy's own interpolation is between its nodes;
    so a policy needs no solver. Where that is ``quantile`` nothing is filled in.
    """
    if bench.recipe.interpolation == QUANTILE:
        return calibration
    return replace(calibration, between=tuple(_between(bench, calibration)))


def _between(bench: Workbench, calibration: Calibration) -> Iterator[Schedule]:
    solver, solved = solver_of(bench.registry, bench.recipe.interpolation), bench.solved
    nodes, problem = nodes_of(calibration), problem_of(calibration)
    if nodes is None:
        return
    for budget in range(2, calibration.num_steps):
        ends = nodes.interpolation.ends(budget)
        if ends is None:
            continue
        if (budget, *ends) not in solved:
            here = replace(problem, budget=budget, anchor=ends[0], reference=ends[1])
            solved[budget, *ends] = solver.solve(here).schedule
        solution = solved[budget, *ends]
        if solution is not None:
            yield Schedule(solution.num_steps, solution.computed)
