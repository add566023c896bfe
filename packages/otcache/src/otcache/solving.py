"""Steps by a solver of the user's choice, from what a calibration has measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from otcache.calibration.recipe import able_with
from otcache.calibration.stages import gains
from otcache_core import Need, OtcacheError, PluginError, Schedule, ScheduleProblem, Solution
from otcache_core.calibration import Calibration
from otcache_core.contracts import ScheduleSolver
from otcache_core.errors import expected
from otcache_core.interpolation import schedule_on
from otcache_core.notices import notify
from otcache_core.plugins import Registry
from otcache_core.plugins.info import reason_of
from otcache_core.policy import Policy

#: What a calibration holds of what solvers need.
MEASURED = frozenset(Need) - {Need.EVALUATOR, Need.DISPLACEMENTS}


def solved(
    calibration: Calibration, fitted: Policy, solver: str | ScheduleSolver, registry: Registry
) -> Policy:
    """Take the steps of every budget from a solver, and their forecasts from a fitted policy.

    Args:
        calibration: what the problems are made of.
        fitted: the policy of the calibration's own rungs; its forecast strengths are read at each budget.
        solver: a name in the registry, or a solver.
        registry: where the solver comes from.

    Raises:
        OtcacheError: if the solver needs more than a calibration holds, or finds no schedule at all.
    """
    name, found = _solver(solver, registry)
    missing = [need.value for need in Need if need in found.abilities.needs - MEASURED]
    if missing:
        raise OtcacheError(_why_not(name, missing, registry))
    rungs, without = list[Schedule](), list[int]()
    for budget, steps in _steps(found, problem_of(calibration), name):
        if steps is None:
            without.append(budget)
        else:
            rungs.append(schedule_on(fitted, steps))
    if not rungs:
        raise OtcacheError(f"solver {name!r} finds no schedule of {calibration.num_steps} steps.")
    if without:
        budgets = ", ".join(map(str, without))
        notify(f"solver {name!r} finds no schedule at B = {budgets}: it is interpolated there.")
    return Policy(rungs[0], rungs[-1], fitted.provenance, tuple(rungs), solver=name)


def problem_of(calibration: Calibration) -> ScheduleProblem:
    """Make the problem of the largest budget below N, from what was measured."""
    costs, gram, grid = calibration.span_costs, calibration.gram, calibration.grid
    return ScheduleProblem(
        calibration.num_steps,
        calibration.num_steps - 1,
        costs=costs,
        anchor=calibration.anchor,
        reference=calibration.reference,
        gram=gram,
        grid=grid,
        gains=gains(costs, gram, grid),
    )


def _steps(
    solver: ScheduleSolver, problem: ScheduleProblem, name: str
) -> Iterator[tuple[int, tuple[int, ...] | None]]:
    """Every budget from 2 to N - 1 and what is computed there; None where there is no schedule."""
    budgets = range(2, problem.budget + 1)
    if solver.abilities.all_budgets:
        solutions = frontier_of(solver, problem, name)[1:]
    else:
        solutions = [solution_of(solver, replace(problem, budget=b), name) for b in budgets]
    for budget, solution in zip(budgets, solutions, strict=True):
        yield budget, None if solution.schedule is None else solution.schedule.computed


def _solver(solver: str | ScheduleSolver, registry: Registry) -> tuple[str, ScheduleSolver]:
    if isinstance(solver, ScheduleSolver):
        return type(solver).__name__, solver
    if not isinstance(solver, str):
        wanted = "the name of a solver, or a ScheduleSolver"
        raise OtcacheError(expected("solver", type(solver).__name__, wanted))
    return solver, registry.create("solvers", solver)


def _why_not(name: str, missing: list[str], registry: Registry) -> str:
    able = able_with(registry, MEASURED)
    return (
        f"solver {name!r} needs the pipeline itself ({' and '.join(missing)}), which a calibration does not "
        f"hold: give pipe= and prompts=, or choose one of {', '.join(able)}."
    )


def solution_of(solver: ScheduleSolver, problem: ScheduleProblem, name: str) -> Solution:
    """What a solver finds.

    Args:
        solver: asked.
        problem: of one budget.
        name: of the solver, in messages.

    Raises:
        PluginError: naming it, if it raises anything but an ``OtcacheError``, or answers with something
            other than a Solution of this N and budget.
    """
    try:
        found: object = solver.solve(problem)
    except OtcacheError:
        raise
    except BaseException as error:
        raise PluginError(f"solver {name!r} failed: {reason_of(error)}") from error
    return _checked(found, problem.num_steps, problem.budget, name)


def frontier_of(solver: ScheduleSolver, problem: ScheduleProblem, name: str) -> list[Solution]:
    """What a solver finds at the budgets 1 .. B; arguments and errors as :func:`solution_of`."""
    try:
        found = list(solver.frontier(problem))
    except OtcacheError:
        raise
    except BaseException as error:
        raise PluginError(f"solver {name!r} failed: {reason_of(error)}") from error
    if len(found) != problem.budget:
        wanted = f"{problem.budget} solutions, one a budget"
        raise PluginError(expected(f"frontier() of solver {name!r}", len(found), wanted))
    return [_checked(one, problem.num_steps, b, name) for b, one in enumerate(found, 1)]


def _checked(found: object, num_steps: int, budget: int, name: str) -> Solution:
    if not isinstance(found, Solution):
        wanted = "a Solution"
        raise PluginError(expected(f"what solver {name!r} finds", type(found).__name__, wanted))
    made = found.schedule
    if made is not None and (made.num_steps, made.budget) != (num_steps, budget):
        got, wanted = f"{made.budget} of {made.num_steps} steps", f"{budget} of {num_steps} steps"
        raise PluginError(expected(f"what solver {name!r} finds", got, wanted))
    return found
