"""From a calibration to a policy; no network runs here.

:func:`plan` keeps the rungs that are known to be below their baselines (:func:`fitted_policy`), or takes
the steps of a solver (:func:`solved_policy`). With the pipeline, :mod:`.planning_on_pipeline` measures these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import msgspec

from otcache.attempts import attemptable
from otcache.calibration.recipe import BASELINES, FEW_STEPS, UNIFORM, able_with
from otcache.calibration.stages import gains
from otcache.open_loop import trusted
from otcache_core import Need, OtcacheError, PluginError, Schedule, ScheduleProblem, Solution
from otcache_core.calibration import Calibration, Rung
from otcache_core.contracts import ScheduleSolver
from otcache_core.errors import expected
from otcache_core.notices import notify
from otcache_core.plugins import Registry, installed
from otcache_core.plugins.info import reason_of
from otcache_core.policy import Policy, Provenance
from otcache_core.samples import Sample
from otcache_core.targets import Measured
from otcache_core.uncalibrated import default_schedule

T = TypeVar("T")
#: There a budget is worthwhile if at least nine tenths of the error of computing one step are gone.
WORTHWHILE = 0.1
#: Samples in one pipeline call, unless something else is said.
BATCH_SIZE = 8
#: What a calibration holds of what solvers need.
MEASURED = frozenset(Need) - {Need.EVALUATOR, Need.DISPLACEMENTS}
#: Errors up to this are rounding.
ROUNDING = 1e-6


@attemptable
def plan(
    calibration: Calibration,
    *,
    solver: str | ScheduleSolver | None = None,
    registry: Registry | None = None,
    pipe: Any = None,
    prompts: Iterable[Sample] = (),
    seeds: Iterable[int] | None = None,
    budgets: Iterable[int] | None = None,
    batch_size: int | None = None,
    probe: str | None = None,
    progress: bool = True,
    **call: Any,
) -> Policy:
    """Plan every budget from what a calibration has measured; pure, unless it is given the pipeline.

    The policy's rungs are the calibration's, but for those that are not known to be below their baselines
    (:func:`proven`), and uniform reuse where interpolation between rungs would be worse by its
    :func:`~otcache.open_loop.open_loop_error`. Where no anchor was searched, as in a quick calibration, the
    policy is that without calibration beyond the smallest and the largest rung. A rung above a lower one is
    kept all the same: it is the best that was measured of its budget, and what would be interpolated in its
    place was not.

    In a run of few steps, as distilled models make them, each step does much that the others do not
    contain. With at most 8 steps a rung is therefore omitted, too, if its error is above a tenth of
    that of computing the first step alone; a notice says which budgets that concerns.

    With a solver the steps of every budget are the solver's, and the forecasts those of the policy above,
    their strengths read at that budget. Of such schedules nothing was measured, which the policy says.

    With the pipeline, too, the solver may be any, and what it finds is measured on the prompts given: it
    takes the place of the schedule above, or of uniform reuse, only where it is clearly below both
    (:func:`otcache.planning_on_pipeline.searched`). What that cost is printed.

    Args:
        calibration: of :func:`otcache.calibrate`.
        solver: the name of an installed solver, or a solver; None for what was measured best.
        registry: where solvers come from.
        pipe: the pipeline or loop that was calibrated; None runs nothing.
        prompts: with ``pipe``, samples as :func:`otcache.calibrate` takes them, two at least. The
            calibration's own will do.
        seeds: with ``pipe``, of every prompt; None gives each a seed of its own.
        budgets: with ``pipe``, those to solve for; None for those of the calibration's ladder.
        batch_size: with ``pipe``, samples in one call, at most; None for 8.
        probe: with ``pipe``, the name of a probe plugin.
        progress: with ``pipe``, show bars and what was measured on standard error.
        throw: False returns an OtcacheError instead of raising it, as :func:`otcache.attempt` does.
        call: with ``pipe``, further arguments of its call, as they were calibrated.

    Returns:
        The policy: ``policy.schedule(budget)`` for 1 <= budget <= N.

    Raises:
        OtcacheError: if it is not a calibration, no rung of its ladder is worth its budget, none is known to
            be, the solver needs more than a calibration holds, or an argument wants another.
        MismatchError: if the pipeline is not the one that was calibrated.
    """
    if not isinstance(calibration, Calibration):
        advice = "give what otcache.calibrate(...) returned, or Calibration.load(path)."
        kind = type(calibration).__name__
        raise OtcacheError(expected("calibration", kind, "a Calibration", advice))
    with_pipe = {"prompts": prompts, "seeds": seeds, "budgets": budgets, "batch_size": batch_size}
    check_pipe(pipe, solver, {**with_pipe, "probe": probe, **call})
    policy = fitted_policy(calibration)
    if solver is None:
        return policy
    plugins = installed() if registry is None else registry
    if pipe is None:
        return solved_policy(calibration, policy, solver, plugins)
    from otcache.planning_on_pipeline import PipelineSamples, searched

    size = BATCH_SIZE if batch_size is None else batch_size
    samples = PipelineSamples(pipe, prompts, seeds, budgets, size, probe, progress, call)
    return searched(calibration, policy, solver, plugins, samples).policy


def check_pipe(
    pipe: object,
    solver: object,
    given: Mapping[str, object],
    pipe_name: str = "pipe=",
    solver_name: str = "solver=",
) -> None:
    """Check that nothing is given without what it is for.

    Args:
        pipe: None if there is none.
        solver: None if there is none.
        given: what wants a pipeline, by name; None and empty values are not given.
        pipe_name: what the user calls the pipeline.
        solver_name: what the user calls the solver.

    Raises:
        OtcacheError: if one is given without a pipeline, or a pipeline without a solver.
    """
    wants = next((name for name, value in given.items() if _is_given(value)), None)
    if pipe is None and wants:
        raise OtcacheError(f"{wants} is for {pipe_name}: give that too, or omit {wants}.")
    if pipe is not None and solver is None:
        raise OtcacheError(f"{pipe_name} is for {solver_name}: give that too, or omit {pipe_name}.")


def _is_given(value: object) -> bool:
    return value is not None and not (isinstance(value, (str, Sequence)) and not value)


def fitted_policy(calibration: Calibration) -> Policy:
    """Return the policy of what was measured; see :func:`plan`.

    Raises:
        OtcacheError: if no rung of the ladder is worth its budget, or none is known to be.
    """
    n, known = calibration.num_steps, proven(calibration)
    if not known:
        raise OtcacheError(
            "no rung of the ladder was compared with uniform reuse: raise Recipe.candidate_runs."
        )
    kept = [rung.schedule for rung in worthwhile(calibration, known)]
    if not kept:
        raise OtcacheError(
            f"there is no worthwhile budget for {n} steps{_why(calibration)}: compute them all."
        )
    if n <= FEW_STEPS and any(2 <= r.schedule.budget < kept[0].budget for r in calibration.ladder):
        message = f"budgets below {kept[0].budget} are not worthwhile for {n} steps."
        notify(message)
    policy = _interpolating(calibration, kept)
    budgets = {schedule.budget for schedule in kept}
    rungs = [rung for rung in known if rung.errors and rung.schedule.budget in budgets]
    return msgspec.structs.replace(
        policy,
        ladder=_with_safe_gaps(policy, calibration),
        measured=tuple(Measured(rung.schedule.budget, rung.errors) for rung in rungs),
    )


def _interpolating(calibration: Calibration, kept: list[Schedule]) -> Policy:
    return Policy(
        anchor=_inside(calibration.anchor, kept),
        reference=_inside(calibration.reference, kept),
        ladder=tuple(kept),
        provenance=Provenance.from_dict(
            {**calibration.provenance, "grid": calibration.grid.tolist()}
        ),
    )


def nodes_of(calibration: Calibration) -> Policy | None:
    """Return the policy of the rungs alone that :func:`plan` keeps; None where it keeps none."""
    kept = [rung.schedule for rung in worthwhile(calibration, proven(calibration))]
    return _interpolating(calibration, kept) if kept else None


def _at(policy: Policy, calibration: Calibration, budget: int) -> Schedule:
    """Return what is interpolated at a budget, by the solver that the calibration was made with."""
    steps = next((s.computed for s in calibration.between if s.budget == budget), None)
    return policy.schedule(budget) if steps is None else policy.interpolation.on(steps)


def doubtful(calibration: Calibration) -> dict[int, Schedule]:
    """Return what is interpolated at budgets where that cannot be trusted, smallest budget first.

    Its :func:`~otcache.open_loop.open_loop_error` is above half of that of uniform reuse. None in a run of
    few steps, or where no rung is known to be below its baselines; without an anchor none beyond the rungs.
    """
    return {b: s for b, s in between_rungs(calibration).items() if trusted(s, calibration) is not s}


def between_rungs(calibration: Calibration) -> dict[int, Schedule]:
    """Return what is interpolated at budgets without a rung, smallest first; where, :func:`doubtful` says."""
    rungs = proven(calibration)
    if not rungs or calibration.num_steps <= FEW_STEPS:
        return {}
    policy = _interpolating(calibration, [rung.schedule for rung in rungs])
    measured = [schedule.budget for schedule in policy.ladder]
    first, last = (2, policy.num_steps) if calibration.anchored else (measured[0], measured[-1])
    between = [b for b in range(first, last) if b not in measured]
    return {b: _at(policy, calibration, b) for b in between}


def _with_safe_gaps(policy: Policy, calibration: Calibration) -> tuple[Schedule, ...]:
    """Return the ladder, with uniform reuse where interpolation cannot be trusted.

    Between rungs nothing was measured, but what a schedule does to the recorded outputs is known. If one
    budget of a gap is doubtful, every budget of it becomes a rung, those that are doubtful with uniform
    reuse and the others as interpolated. So does every budget whose steps a policy would not find by itself,
    and what lies beyond the rungs of a calibration without an anchor, with the schedule without calibration.
    """
    solved = {s.budget for s in calibration.between}
    n, budgets = policy.num_steps, [s.budget for s in policy.ladder]
    ladder = list(policy.ladder)
    if not calibration.anchored:
        known = calibration.grid, calibration.provenance.get("prediction_type")
        beyond = (*range(2, budgets[0]), *range(budgets[-1] + 1, n))
        ladder += [default_schedule(n, b, *known) for b in beyond]
    else:
        budgets = [1, *budgets, n]
    for low, high in pairwise(budgets):
        gap = {b: _at(policy, calibration, b) for b in range(low + 1, high)}
        safe = {b: trusted(schedule, calibration) for b, schedule in gap.items()}
        if any(gap[b] is not safe[b] or b in solved for b in gap):
            ladder += safe.values()
    return tuple(sorted(ladder, key=lambda s: s.budget))


def _inside(schedule: Schedule, kept: list[Schedule]) -> Schedule:
    """Return the schedule, or the rung next to it if it is outside of them: it was never compared."""
    if schedule.budget < kept[0].budget:
        return kept[0]
    return kept[-1] if schedule.budget > kept[-1].budget else schedule


def proven(calibration: Calibration) -> list[Rung]:
    r"""Return the rungs that were compared with uniform reuse, or need not be.

    Where the allowance did not last for that, the best baseline e' of the nearest smaller rung B'
    bounds what would have been measured: a rung is kept if its error

    .. math:: e_B \le m \, e' \, (B'/B)^2

    as if baselines fell like those of second order, which linear forecasts are, with m = 1/2 for the
    doubt, and 1/4 on a single sample, which the fit has seen. All others are omitted: between
    their neighbours, which were compared, there is interpolation.
    """
    rungs: list[Rung] = []
    doubt = 0.25 if len(calibration.samples) == 1 else 0.5
    bound = -math.inf  # e' B'^2 of the nearest smaller rung that was compared
    for rung in calibration.ladder:
        measured = {name: c.error for name, c in rung.candidates.items() if name in BASELINES}
        limit = doubt * bound / rung.schedule.budget**2
        if UNIFORM in measured or rung.winner in BASELINES or rung.error <= limit:
            rungs.append(rung)
        if errors := [e for e in measured.values() if e is not None]:
            bound = min(errors) * rung.schedule.budget**2
    return rungs


def worthwhile(calibration: Calibration, rungs: list[Rung]) -> list[Rung]:
    """Return the rungs that are worth their budget in a run of few steps; all of them of more steps.

    If the ladder has no rung of one step, its largest error is taken for that.
    """
    if calibration.num_steps > FEW_STEPS:
        return rungs
    limit = max(ROUNDING, WORTHWHILE * _one_step(calibration))
    return [r for r in rungs if r.error <= limit and r.schedule.budget > 1]


def _one_step(calibration: Calibration) -> float:
    """Return the error of computing the first step alone."""
    errors = {rung.schedule.budget: rung.error for rung in calibration.ladder}
    return errors.get(1, max(errors.values(), default=0.0))


def _why(calibration: Calibration) -> str:
    errors = {rung.schedule.budget: rung.error for rung in calibration.ladder}
    one = _one_step(calibration)
    if calibration.num_steps > FEW_STEPS or not one:
        return ""
    budget = min(errors, key=lambda b: (errors[b], b))
    return (
        f" (computing {budget} of them leaves {errors[budget] / one:.0%} of the error of "
        f"computing one, and {WORTHWHILE:.0%} is the most that is worthwhile)"
    )


def solved_policy(
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
    name, chosen = _solver(solver, registry)
    missing = [need.value for need in Need if need in chosen.abilities.needs - MEASURED]
    if missing:
        raise OtcacheError(_why_not(name, missing, registry))
    rungs, without = list[Schedule](), list[int]()
    for budget, steps in _steps(chosen, problem_of(calibration), name):
        if steps is None:
            without.append(budget)
        else:
            rungs.append(fitted.interpolation.on(steps))
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
    """Yield every budget from 2 to N - 1 and what is computed there; None if there is no schedule."""
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
    """Return what a solver finds.

    Args:
        solver: of any package.
        problem: of one budget.
        name: of the solver, in messages.

    Raises:
        PluginError: naming it, if it raises anything but an ``OtcacheError``, or returns something
            other than a Solution of this N and budget.
    """
    solution = _solve(name, lambda: solver.solve(problem))
    return _checked(solution, problem.num_steps, problem.budget, name)


def frontier_of(solver: ScheduleSolver, problem: ScheduleProblem, name: str) -> list[Solution]:
    """Return what a solver finds at the budgets 1 .. B; arguments and errors as :func:`solution_of`."""
    solutions = _solve(name, lambda: list(solver.frontier(problem)))
    if len(solutions) != problem.budget:
        wanted = f"{problem.budget} solutions, one per budget"
        raise PluginError(expected(f"frontier() of solver {name!r}", len(solutions), wanted))
    return [_checked(one, problem.num_steps, b, name) for b, one in enumerate(solutions, 1)]


def _solve(name: str, solve: Callable[[], T]) -> T:
    try:
        return solve()
    except OtcacheError:
        raise
    except BaseException as error:
        raise PluginError(f"solver {name!r} failed: {reason_of(error)}") from error


def _checked(found: object, num_steps: int, budget: int, name: str) -> Solution:
    if not isinstance(found, Solution):
        wanted = "a Solution"
        raise PluginError(expected(f"what solver {name!r} finds", type(found).__name__, wanted))
    schedule = found.schedule
    if schedule is not None and (schedule.num_steps, schedule.budget) != (num_steps, budget):
        got = f"{schedule.budget} of {schedule.num_steps} steps"
        wanted = f"{budget} of {num_steps} steps"
        raise PluginError(expected(f"what solver {name!r} finds", got, wanted))
    return found
