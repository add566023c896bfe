"""What a solver needs of its problem and its environment, or one clear error."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core import Need, OtcacheError, Schedule, ScheduleProblem
from otcache_core.contracts import Evaluator
from otcache_core.errors import expected
from otcache_core.problem import Displacements

#: Of solvers that interpolate between two schedules, and of those that run the pipeline.
ENDPOINTS = frozenset({Need.ANCHOR, Need.REFERENCE})
PIPELINE = frozenset({Need.EVALUATOR})
#: What to install for a module that is imported on use: the requirements of this package.
REQUIREMENTS = {
    "cvxpy": "cvxpy>=1.5",
    "networkx": "networkx>=3.3",
    "optuna": "optuna>=4",
    "ot": "POT>=0.9.5",
    "scipy": "scipy>=1.13",
}


def library(module: str, user: str, instead: str = "") -> Any:
    """Import a heavy library on use; ``scipy.optimize`` and the like are of ``scipy``.

    Args:
        module: name to import.
        user: what needs it, to begin a sentence with.
        instead: what works without it, such as ``use backend=HiGHS()``.

    Raises:
        OtcacheError: if it cannot be imported, with the line that installs it.
    """
    requirement = REQUIREMENTS[module.split(".")[0]]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = requirement.split(">")[0]
        missing = error.name == module.split(".")[0]
        why = "is not installed" if missing else f"is broken ({error})"
        line = f"pip install {'' if missing else '--force-reinstall '}'{requirement}'"
        other = f", or {instead}." if instead else "."
        raise OtcacheError(f"{user} needs {name}, which {why}: {line}{other}") from error


def costs_of(problem: ScheduleProblem, solver: str) -> NDArray[np.float64]:
    """Return the problem's span costs.

    Raises:
        OtcacheError: if it has none.
    """
    if problem.costs is None:
        raise OtcacheError(
            f"solver {solver!r} needs span costs, got none: "
            "measure them with a cost model and pass costs=..."
        )
    return problem.costs


def gram_of(problem: ScheduleProblem, user: str) -> NDArray[np.float64]:
    """Return the Gram matrix of the problem's outputs.

    Args:
        problem: the problem.
        user: what needs it, to begin a sentence with.

    Raises:
        OtcacheError: if it has none.
    """
    if problem.gram is None:
        raise OtcacheError(
            f"{user} needs the Gram matrix of the outputs, got none: "
            "pass gram=Gram.of(trajectories).matrix."
        )
    return np.asarray(problem.gram, dtype=np.float64)


def grid_of(problem: ScheduleProblem, user: str) -> NDArray[np.float64]:
    """Return the problem's grid.

    Args:
        problem: the problem.
        user: what needs it, to begin a sentence with.

    Raises:
        OtcacheError: if it has none.
    """
    if problem.grid is None:
        raise OtcacheError(f"{user} needs the grid, got none: pass grid=trajectories[0].grid.")
    return np.asarray(problem.grid, dtype=np.float64)


def check_least(owner: object, other: str = "", **least: int) -> None:
    """Raise OtcacheError unless each of these attributes is None or at least the given number.

    Args:
        owner: what has them.
        other: what else is valid, such as ``, or None``.
        least: the numbers, by the name of the attribute.
    """
    for name, low in least.items():
        value = getattr(owner, name)
        if value is not None and value < low:
            what = f"{type(owner).__name__}.{name}"
            raise OtcacheError(expected(what, value, f"at least {low}{other}"))


def check_array(name: str, value: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    """Raise OtcacheError unless it has that shape, is not empty and all finite."""
    if value.shape != shape or not value.size:
        raise OtcacheError(expected(name, value.shape, f"of shape {shape}"))
    if not np.isfinite(value).all():
        raise OtcacheError(f"{name} holds NaN or infinity: record the runs again.")


def displacements_of(problem: ScheduleProblem, solver: str) -> Displacements:
    """Return the displacements of the problem's spans, measured if they are not yet.

    Raises:
        OtcacheError: if it has none, or those of another N.
    """
    if problem.displacements is None:
        raise OtcacheError(
            f"solver {solver!r} needs displacements, got none: measure them with "
            "Displacement().displacements(trajectories, evaluator) and pass displacements=..., "
            "a function that returns them."
        )
    measured = problem.displacements()
    if problem.num_steps != measured.num_steps:
        wanted = f"{measured.num_steps}, as the displacements"
        raise OtcacheError(expected("num_steps", problem.num_steps, wanted))
    return measured


def endpoints_of(problem: ScheduleProblem, solver: str) -> tuple[Schedule, Schedule]:
    """Return the problem's anchor and reference.

    Raises:
        OtcacheError: if one is missing.
    """
    if problem.anchor is None or problem.reference is None:
        missing = "anchor" if problem.anchor is None else "reference"
        raise OtcacheError(
            f"solver {solver!r} interpolates between two schedules, got no {missing}: "
            "pass anchor=... and reference=..."
        )
    return problem.anchor, problem.reference


def evaluator_of(problem: ScheduleProblem, solver: str) -> Evaluator:
    """Return the problem's evaluator.

    Raises:
        OtcacheError: if there is none, or its runs have another N.
    """
    if problem.evaluator is None:
        raise OtcacheError(
            f"solver {solver!r} runs the pipeline, got no evaluator: pass evaluator=..."
        )
    n = len(problem.evaluator.grid) - 1
    if n != problem.num_steps:
        raise OtcacheError(f"evaluator runs must have {problem.num_steps} steps, got {n}.")
    return problem.evaluator


def objective_of(evaluator: Evaluator, name: str | None) -> str | None:
    """Check the name of an objective of the evaluator; None, its default, stays None.

    Raises:
        OtcacheError: if the evaluator has no such objective.
    """
    if name is not None and name not in evaluator.objectives:
        known = ", ".join(evaluator.objectives)
        raise OtcacheError(expected("objective", name, f"one of {known}"))
    return name
