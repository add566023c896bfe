"""The steps between the rungs of a calibration, by the solver that was chosen for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from otcache.calibration.recipe import QUANTILE, solver_of
from otcache.planning import nodes_of, problem_of
from otcache_core import Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import ScheduleSolver

if TYPE_CHECKING:
    from otcache.calibration.contest import Solved, Workbench


def interpolated(bench: Workbench, calibration: Calibration) -> Calibration:
    """Fill in the steps of every budget between two rungs that a plan keeps.

    Each is the chosen solver's between these two rungs, as a policy's own interpolation is between its nodes;
    so a policy needs no solver. Where that is ``quantile`` nothing is filled in.
    """
    if bench.recipe.interpolation == QUANTILE:
        return calibration
    solver = solver_of(bench.registry, bench.recipe.interpolation)
    return replace(calibration, between=tuple(_between(calibration, solver, bench.solved)))


def _between(
    calibration: Calibration, solver: ScheduleSolver, solved: Solved
) -> Iterator[Schedule]:
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
        found = solved[budget, *ends]
        if found is not None:
            yield Schedule(found.num_steps, found.computed)
