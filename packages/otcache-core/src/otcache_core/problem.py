"""What a schedule solver is given, and what it returns."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.displacements import Displacements
from otcache_core.errors import OtcacheError, expected
from otcache_core.schedule import Schedule, check_budget

if TYPE_CHECKING:
    from otcache_core.contracts.evaluator import Evaluator


class Need(enum.Enum):
    """What a solver may need of its problem, by the field that holds it."""

    COSTS = "costs"
    GRAM = "gram"
    GRID = "grid"
    GAINS = "gains"
    DISPLACEMENTS = "displacements"
    ANCHOR = "anchor"
    REFERENCE = "reference"
    EVALUATOR = "evaluator"


@dataclass(frozen=True, eq=False)
class ScheduleProblem:
    """Choose B of N steps, from what was measured of a pipeline.

    Every measurement may be missing; a solver says what it needs by
    :attr:`~otcache_core.contracts.ScheduleSolver.abilities`.

    Args:
        num_steps: N.
        budget: B, in 1..N.
        costs: w(i -> j) for 0 <= i < j <= N in entry [i, j]; shape (N, N + 1), entries with
            j <= i are ignored; spans of length one cost 0. None for solvers that need no costs.
            ``inf`` marks a span that may not be used.
        anchor: schedule at an extreme budget, for solvers that interpolate.
        reference: schedule at a conservative budget, for solvers that interpolate.
        evaluator: the pipeline, for solvers that search.
        seed: seed of every random choice.
        gram: H[a, b] = E <v_a, v_b> of the recorded outputs, mean over elements, then samples; shape
            (N, N).
        grid: s_0 .. s_N, monotone; shape (N + 1,).
        gains: g_0 .. g_N, growth of a deviation from step j to the end of the run; shape (N + 1,).
        displacements: measures what skipping each span does to the result, as vectors; called by each
            ``solve`` that needs it, since it takes time, and gives the same object every time.

    Raises:
        OtcacheError: if a shape is wrong or a cost is NaN or negative.
    """

    num_steps: int
    budget: int
    costs: NDArray[np.float64] | None = None
    anchor: Schedule | None = None
    reference: Schedule | None = None
    evaluator: Evaluator | None = None
    seed: int = 0
    gram: NDArray[np.float64] | None = None
    grid: NDArray[np.float64] | None = None
    gains: NDArray[np.float64] | None = None
    displacements: Callable[[], Displacements] | None = None

    def __post_init__(self) -> None:
        check_budget(self.budget, self.num_steps)
        if self.costs is not None:
            check_costs(self.costs, self.num_steps)
        n = self.num_steps
        for name, shape in (("gram", (n, n)), ("grid", (n + 1,)), ("gains", (n + 1,))):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise OtcacheError(expected(name, array.shape, f"of shape {shape}"))
        for name in ("anchor", "reference"):
            policy = getattr(self, name)
            if policy is not None and policy.num_steps != self.num_steps:
                raise OtcacheError(
                    expected(f"{name}.num_steps", policy.num_steps, str(self.num_steps))
                )

    def lacks(self, needs: Collection[Need]) -> tuple[Need, ...]:
        """Which of these the problem does not hold, in the order of :class:`Need`."""
        return tuple(n for n in Need if n in needs and getattr(self, n.value) is None)


@dataclass(frozen=True)
class KeptOut:
    """What a refinement does on samples that were kept out of it.

    Args:
        start: error of the schedule that was refined.
        refined: error of the refined one.
    """

    start: float
    refined: float

    @property
    def accepted(self) -> bool:
        """Whether it is an improvement there too."""
        return self.refined < self.start


class Result(enum.Enum):
    """How a solver ended; the value is advice to the user."""

    OPTIMAL = "The schedule is optimal for the stated objective."
    FOUND = "A feasible schedule was found by search; nothing is claimed about better ones."
    INFEASIBLE = (
        "No path of this budget exists in the span graph. Raise the budget or the span cap."
    )
    BUDGET_SPENT = (
        "The solver stopped at one of its limits before it was done. "
        'Raise it: `stats["advice"]` names it.'
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """A schedule and how good it is.

    Args:
        schedule: None exactly when ``result`` is INFEASIBLE.
        objective: value of the solver's own objective at the schedule (``inf`` where infeasible).
        result: how the solver ended.
        lower_bound: certificate: no schedule of this budget has an objective below it; None where
            the solver offers none.
        certificate: what the bound bounds (objective, forecaster, samples); empty where there is
            none.
        stats: counters such as ``{"trials": 40}``; where the result is BUDGET_SPENT, ``advice`` names
            the solver's own limit that ended it.
        nfe: denoiser evaluations spent through the problem's evaluator.
        kept_out: what a refinement did on samples that it did not see; None of other solvers, and where
            there was no refinement.
    """

    schedule: Schedule | None
    objective: float
    result: Result
    lower_bound: float | None = None
    certificate: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    nfe: int = 0
    kept_out: KeptOut | None = None

    def __post_init__(self) -> None:
        if (self.schedule is None) != (self.result is Result.INFEASIBLE):
            raise OtcacheError(
                expected("Solution.schedule", self.schedule, "None exactly when infeasible")
            )
        if self.lower_bound is not None and self.lower_bound > self.objective * (1 + 1e-9) + 1e-12:
            raise OtcacheError(
                expected("Solution.lower_bound", self.lower_bound, f"at most {self.objective}")
            )


def check_costs(costs: NDArray[np.float64], num_steps: int) -> None:
    """Raise OtcacheError unless costs[i, j] >= 0 (inf allowed) for i < j, and 0 for j = i + 1."""
    shape = (num_steps, num_steps + 1)
    if costs.shape != shape:
        raise OtcacheError(
            expected(
                "costs",
                costs.shape,
                f"of shape {shape}",
                "rows are starts 0..N-1, columns stops 0..N.",
            )
        )
    above = costs[np.triu_indices(num_steps, k=1, m=num_steps + 1)]
    if np.isnan(above).any() or (above < 0).any():
        raise OtcacheError(
            "costs must be >= 0, got NaN or a negative entry: give spans that must not be skipped the "
            "cost infinity."
        )
    if np.diagonal(costs, offset=1).any():
        raise OtcacheError(
            "costs of spans of length one must be 0, got another value: nothing is skipped there."
        )
