"""Ask a solver, whoever wrote it, and see that what it answers is an answer."""

from __future__ import annotations

from otcache_core import OtcacheError, PluginError, ScheduleProblem, Solution
from otcache_core.contracts import ScheduleSolver
from otcache_core.errors import expected
from otcache_core.plugins.info import reason_of


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
