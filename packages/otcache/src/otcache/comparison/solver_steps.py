"""A solver's steps as a row of a comparison: ``solver:NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from otcache.comparison.baselines import Found, ScheduledBaseline
from otcache.comparison.tuning import Tuning
from otcache.planning import plan
from otcache.solving import problem_of, solution_of
from otcache_core import Need, OtcacheError
from otcache_core.calibration import Calibration
from otcache_core.interpolation import schedule_on

#: Begins the name of such a row.
PREFIX = "solver:"


def solver_of(method: str) -> str | None:
    """Return the name of the solver whose row this is; None of another method."""
    return method.removeprefix(PREFIX) if method.startswith(PREFIX) else None


@final
class SolverSteps(ScheduledBaseline):
    """The steps that a solver chooses at each budget, with the forecasts of a calibration.

    As ``otcache.plan(calibration, solver=...)``; solvers that need the pipeline have it. The price is that of
    the calibration and of what the solver ran.

    Args:
        solver: name of a solver.
        calibration: what it plans from.
    """

    def __init__(self, solver: str, calibration: Calibration) -> None:
        self._solver, self._calibration = solver, calibration
        self.source = f"solver {solver!r}, forecasts of otcache's calibration"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        name = tuning.registry.resolve("solvers", self._solver)
        solver = tuning.registry.create("solvers", name)
        fitted = plan(self._calibration)
        problem = problem_of(self._calibration)
        price = sum(self._calibration.nfe.values())
        if Need.EVALUATOR in solver.abilities.needs:
            problem = replace(problem, evaluator=tuning.evaluator)
            price += 2 * tuning.full_runs
        if Need.DISPLACEMENTS in solver.abilities.needs:
            problem = replace(problem, displacements=lambda: tuning.displacements)
            price += 2 * tuning.full_runs + tuning.displacements.nfe
        found = {}
        for budget in budgets:
            one = replace(problem, budget=budget)
            solution = solution_of(solver, one, self._solver)
            if solution.schedule is None:
                raise OtcacheError(
                    f"{self._solver} finds no schedule of {budget} steps: {solution.result.value}"
                )
            price += solution.nfe
            found[budget] = schedule_on(fitted, solution.schedule.computed)
        return found, price
