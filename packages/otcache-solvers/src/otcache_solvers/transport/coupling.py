"""What an iteration for an entropic coupling reached, and how a solution says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Result, Solution


@final
@dataclass(frozen=True, eq=False)
class Coupling:
    """A coupling and how good it is.

    Args:
        plan: pi, shape of C.
        residual: what the marginals lack, as a share of the mass; the solver states how it adds up.
        iterations: over all epsilons.
        epsilon: the one that ``plan`` is of, in the solver's unit.
        converged: whether ``residual`` is within the tolerance *at the last epsilon*. A coupling
            that met its marginals at an earlier one solves another, more blurred problem.
    """

    plan: NDArray[np.float64]
    residual: float
    iterations: int
    epsilon: float
    converged: bool


def reported(solution: Solution, coupling: Coupling) -> Solution:
    """The solution with how its coupling was reached; unconverged, it certifies nothing."""
    stats = solution.stats | {
        "marginal_residual": coupling.residual,
        "iterations": coupling.iterations,
        "epsilon": coupling.epsilon,
    }
    if coupling.converged:
        return replace(solution, stats=stats)
    stats["advice"] = (
        f"The coupling did not converge: marginal residual {coupling.residual:.1e} at epsilon "
        f"{coupling.epsilon:.1e} after {coupling.iterations} iterations. "
        "Raise `max_iterations` or the last epsilon."
    )
    spent = Result.BUDGET_SPENT
    return replace(solution, result=spent, lower_bound=None, certificate="", stats=stats)
