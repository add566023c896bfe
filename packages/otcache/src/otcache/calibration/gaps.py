"""Budgets between the rungs of a calibration: their steps by the chosen solver, and those that are measured.

What a policy would interpolate between two rungs was not measured. :func:`fill_gaps` makes rungs of it,
first where it cannot be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from otcache.calibration.contest import (
    SCREENED_OUT,
    UNSEEN,
    Workbench,
    best_of,
    by_metric,
    candidate,
    clearly_below,
    cost,
    log_errors,
    screening_samples,
)
from otcache.calibration.recipe import QUANTILE, UNIFORM, solver_of
from otcache.planning import between_rungs, doubtful, nodes_of, problem_of
from otcache_core import Schedule
from otcache_core.calibration import Calibration, Candidate, Rung
from otcache_core.targets import Measured
from otcache_core.transport import uniform_steps

Floats = NDArray[np.float64]

#: The candidate whose steps are those that the policy interpolates.
BETWEEN = "between rungs"


def fill_gaps(bench: Workbench, calibration: Calibration) -> Calibration:
    """Fit the interpolated steps of budgets between rungs, and compare them with uniform reuse.

    Doubtful budgets first, whose interpolated schedule does to the recorded outputs more than half of what
    uniform reuse does (:func:`~otcache.planning.doubtful`); then all others. From the smallest up, while the
    recipe's allowance lasts; the policy takes uniform reuse at those that stay doubtful. Each new rung
    counts for the budgets that follow.
    """
    calibration = interpolated(bench, calibration)
    left, n = bench.allowance("gaps", bench.recipe.gap_runs), len(bench.trajectories)
    tried, total = set[int](), len(between_rungs(calibration))
    with bench.stages.stage("measuring between rungs", total) as advance:
        while waiting := [(b, s) for b, s in _waiting(calibration) if b not in tried]:
            budget, schedule = waiting[0]
            tried.add(budget)
            if cost(schedule, n) + cost(_uniform(schedule), n) <= left:
                rung, spent = _rung(bench, schedule)
                left -= spent
                rungs = [*calibration.ladder, rung]
                ladder = tuple(sorted(rungs, key=lambda rung: rung.schedule.budget))
                calibration = interpolated(bench, replace(calibration, ladder=ladder))
            advance(min(len(tried), total), total)
        advance(total, total)
    return replace(calibration, nfe=dict(bench.spent.nfe))


def _waiting(calibration: Calibration) -> list[tuple[int, Schedule]]:
    """Return what is interpolated between rungs, doubtful budgets first."""
    return [*doubtful(calibration).items(), *between_rungs(calibration).items()]


def _rung(bench: Workbench, schedule: Schedule) -> tuple[Rung, int]:
    """Fit the steps of a schedule, keep it if it is clearly below uniform reuse, and count evaluations.

    Uniform reuse runs on a quarter of the samples, and on the others if it is below twice the fit there.
    """
    fitted, uniform = best_of(bench, {BETWEEN: schedule}), _uniform(schedule)
    n = len(fitted.logs)
    spent, runs = cost(schedule, n), list(screening_samples(n))
    errors = _measured(bench, uniform, runs)
    change = (log_errors(errors[bench.fidelity]) - fitted.logs[runs]).mean()
    if change < math.log(SCREENED_OUT) and len(runs) < n:
        rest = [i for i in range(n) if i not in runs]
        runs += rest
        more = _measured(bench, uniform, rest)
        order = np.argsort(runs)
        errors = {name: np.concatenate([errors[name], more[name]])[order] for name in errors}
    spent += cost(uniform, len(runs))
    logs = fitted.logs + change  # as far above as where it ran
    if len(runs) == n:
        logs = log_errors(errors[bench.fidelity])
    entry = Candidate(candidate(logs).error, len(runs))
    table = fitted.candidates | {UNIFORM: entry}
    below = len(runs) < n or clearly_below(fitted.logs, logs)
    if n == 1:  # which the fit has seen
        below = bool(fitted.logs.mean() < logs.mean() - 2 * math.log(UNSEEN))
    if below or entry.error is None:
        known = Measured.of(schedule.budget, fitted.errors).errors
        return Rung(fitted.schedule, fitted.error, BETWEEN, table, known), spent
    known = Measured.of(schedule.budget, errors).errors
    return Rung(uniform, entry.error, UNIFORM, table, known), spent


def _measured(bench: Workbench, schedule: Schedule, samples: Sequence[int]) -> dict[str, Floats]:
    """Return the errors of some samples by metric."""
    whole = len(samples) == len(bench.trajectories)
    done = bench.evaluator.evaluate(
        [schedule], objective=bench.fidelity, samples=None if whole else samples
    )
    return {name: found[0] for name, found in by_metric(done, bench.fidelity).items()}


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
