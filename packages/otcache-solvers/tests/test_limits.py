"""A solver that a limit stopped says which of its own limits to raise, and raising it helps."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest

from otcache_core import Result, Schedule, ScheduleProblem
from otcache_core.testing import ToySampler
from otcache_solvers.search.anchor import AnchorSearch
from otcache_solvers.search.gauss_newton import GaussNewton
from otcache_solvers.search.refine import Refine
from otcache_solvers.search.simulated_annealing import SimulatedAnnealing
from otcache_solvers.transport.sinkhorn import Sinkhorn
from otcache_solvers.transport.unbalanced import KullbackLeibler, Unbalanced

TOY = ToySampler(num_steps=10, num_samples=2)
ENDS = Schedule(10, (0, 6)), Schedule(10, (0, 1, 2, 4, 6, 8))
PROBLEM = ScheduleProblem(10, 4, anchor=ENDS[0], reference=ENDS[1], evaluator=TOY.evaluator())
STOPPED = [
    (SimulatedAnnealing(iterations=20, max_trials=3), {"max_trials": 1000}),
    (SimulatedAnnealing(iterations=20, max_nfe=30), {"max_nfe": 100_000}),
    (Refine(max_trials=2), {"max_trials": 1000}),
    (AnchorSearch(max_trials=4, climb_trials=1), {"climb_trials": 1000}),
    (GaussNewton(max_nfe=1), None),
    (Sinkhorn(max_iterations=2), {"max_iterations": 20_000}),
    (Unbalanced(KullbackLeibler(max_iterations=2)), None),
]


@pytest.mark.remedy("{}{} stopped at a limit. Raise {}.", value=True)
@pytest.mark.remedy('Raise it: `stats["advice"]` names it', value=True)
@pytest.mark.parametrize(("solver", "raised"), STOPPED, ids=lambda part: type(part).__name__)
def test_a_limit_that_stopped_a_solver_is_one_it_has(solver, raised):
    solution = solver.solve(PROBLEM)
    assert solution.result is Result.BUDGET_SPENT
    assert solution.kept_out is None
    limits = re.findall(r"`(\w+)`", solution.stats["advice"])
    holder = solver.penalty if isinstance(solver, Unbalanced) else solver
    assert limits
    assert set(limits) <= set(inspect.signature(type(holder)).parameters)
    if raised is not None:
        assert set(raised) <= set(limits)
        done = replace(solver, **raised).solve(PROBLEM)
        assert done.result is not Result.BUDGET_SPENT
        assert "advice" not in done.stats


@pytest.mark.remedy("A step may cost {} evaluations. Raise `max_nfe` ({}) to that", value=True)
def test_gauss_newton_names_the_allowance_that_is_enough():
    cost = GaussNewton(max_nfe=1).solve(PROBLEM).stats["cost"]
    assert GaussNewton(max_nfe=cost).solve(PROBLEM).result is Result.FOUND
    assert GaussNewton(max_nfe=cost - 1).solve(PROBLEM).result is Result.BUDGET_SPENT


def test_the_result_itself_names_no_limit():
    assert "max_" not in Result.BUDGET_SPENT.value
    assert "advice" in Result.BUDGET_SPENT.value
