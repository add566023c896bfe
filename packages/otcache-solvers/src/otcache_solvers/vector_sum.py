"""The path with the least vector sum of displacements, and a certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import ScheduleSolver
from otcache_core.displacements import Displacements
from otcache_core.errors import expected
from otcache_solvers.certificate import Certificate
from otcache_solvers.flows import (
    BranchAndBound,
    Enumeration,
    Found,
    MinNormPoint,
    PathSearch,
    Relaxation,
    Relaxed,
    SpanVectors,
)
from otcache_solvers.flows.labels import reachable

LOOSE = "Fractional flows may cancel where no path does. Try BranchAndBound()."
#: Up to this many schedules each is tried: a second or two.
FEW = 40_000_000


@final
@dataclass(frozen=True, eq=False)
class VectorSum(ScheduleSolver):
    r"""Minimise the norm of the sum of what each skipped span does to the result.

    .. math:: \min_S f' M f = E \Big\| \sum_{(i \to j) \in S} d(i \to j) \Big\|^2, \qquad
        M_{e e'} = E \langle d_e, d_{e'} \rangle

    with f the unit flow of the path on the span graph. Displacements add up as vectors where span
    costs do not add up. Not additive, so no dynamic program is exact; the search is a strategy:
    ``Enumeration()``, ``Beam(width)`` or ``BranchAndBound()``. By default every schedule is tried
    where there are at most forty million, and branch and bound proves the optimum or a gap beyond.

    The bound is a :class:`~otcache_solvers.certificate.Certificate`, in words in
    ``Solution.certificate`` and as an object in ``Solution.stats["certificate"]``; None where
    nothing was proven. How the relaxation ended is in ``stats["relaxed"]``.

    References:
        METHODS.md, section 4 ("Additive costs do break at low NFE, and vectors mend it").

    Args:
        displacements: M and the span graph, from
            :meth:`~otcache_solvers.costs.displacement.Displacement.displacements`. For a Gram of
            your own: ``Displacements(N, spans, M[None])``; for vectors D (a row a span): M = D D'.
        search: strategy; chosen by the number of schedules by default.
        relaxation: ``MinNormPoint()`` by default, or ``QuadraticProgram(solver)`` through cvxpy;
            None for no relaxation, and no certificate from a beam.
        tolerance: part of the trace of M that the low rank may neglect, in 0..1. Values and
            optimality do not depend on it; bounds of unfinished searches do.

    Raises:
        OtcacheError: if the tolerance is out of range.

    Examples:
        >>> gram = np.array([[[1.0, 0.5], [0.5, 4.0]]])
        >>> measured = Displacements(3, ((0, 2), (1, 3)), gram)
        >>> VectorSum(measured).solve(ScheduleProblem(3, 2)).schedule.computed
        (0, 2)
    """

    displacements: Displacements | None = None
    search: PathSearch | None = None
    relaxation: Relaxation | None = field(default_factory=MinNormPoint)
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise OtcacheError(
                expected("VectorSum.tolerance", self.tolerance, "at least 0 and below 1")
            )

    def solve(self, problem: ScheduleProblem) -> Solution:
        """The best schedule found; span costs are not used, but spans of infinite cost are avoided.

        Raises:
            OtcacheError: if the solver was made without displacements, or N differs.
        """
        n, budget = problem.num_steps, problem.budget
        spans = self._spans(problem)
        if not reachable(spans, budget)[budget, 0]:
            return Solution(None, math.inf, Result.INFEASIBLE, stats={"nfe": 0})
        relaxed = None if self.relaxation is None else self.relaxation.solve(spans, budget)
        search = self.search or _automatic(n, budget)
        found = search.search(spans, budget, relaxed)
        assert found.computed is not None  # a path exists
        schedule = Schedule(num_steps=n, computed=found.computed)
        certificate = self._certificate(spans, schedule, search, found, relaxed)
        stats = {"nfe": 0, "rank": spans.rank, "certificate": certificate, "relaxed": relaxed}
        if certificate is None:
            return Solution(schedule, found.value, Result.FOUND, stats={**found.stats, **stats})
        result = Result.FOUND if certificate.gap else Result.OPTIMAL
        bound, words = certificate.lower_bound, str(certificate)
        return Solution(schedule, found.value, result, bound, words, {**found.stats, **stats})

    def _spans(self, problem: ScheduleProblem) -> SpanVectors:
        if self.displacements is None:
            raise OtcacheError(
                "solver 'vector-sum' needs displacements, got none: measure them with "
                "Displacement().displacements(trajectories, evaluator)."
            )
        n = self.displacements.num_steps
        if problem.num_steps != n:
            wanted = f"{n}, as the displacements"
            raise OtcacheError(expected("num_steps", problem.num_steps, wanted))
        if problem.costs is None:
            return self._factored
        return self._factored.only(np.isfinite(problem.costs))

    @cached_property
    def _factored(self) -> SpanVectors:
        assert self.displacements is not None  # asked for in _spans
        return SpanVectors.of(self.displacements, self.tolerance)

    def _certificate(
        self,
        spans: SpanVectors,
        schedule: Schedule,
        search: PathSearch,
        found: Found,
        relaxed: Relaxed | None,
    ) -> Certificate | None:
        """From the better of the two bounds; None without one."""
        bounds = [(found.lower_bound, search.name, found.reason)]
        if relaxed is not None and relaxed.direction is not None:
            bounds.append((relaxed.lower_bound, relaxed.name, f"{relaxed.closure.value} {LOOSE}"))
        proven = [(bound, method, reason) for bound, method, reason in bounds if bound is not None]
        if not proven:
            return None
        bound, method, reason = max(proven, key=lambda entry: entry[0])
        budget = schedule.budget
        if bound >= spans.cut(found.value, budget):
            bound, reason = found.value, ""
        measured = spans.displacements
        return Certificate(
            f"f' M f ({measured.objective}; propagation: {measured.propagation})",
            schedule.forecaster,
            measured.samples,
            found.value,
            max(0.0, bound - budget * spans.rounding) if reason else bound,
            method,
            spans.truncation(budget),
            spans.resolution(found.value, budget),
            reason,
        )


def _automatic(n: int, budget: int) -> PathSearch:
    few = math.comb(n - 1, budget - 1) <= FEW
    return Enumeration() if few else BranchAndBound()
