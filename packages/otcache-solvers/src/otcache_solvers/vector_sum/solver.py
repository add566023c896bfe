"""The path with the least vector sum of displacements, and a certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import numpy as np

from otcache_core import Need, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.problem import Displacements
from otcache_solvers.needs import displacements_of
from otcache_solvers.vector_sum.branch_and_bound import BranchAndBound
from otcache_solvers.vector_sum.relaxation import MinNormPoint, Relaxation, Relaxed
from otcache_solvers.vector_sum.search import Enumeration, Found, PathSearch
from otcache_solvers.vector_sum.span_vectors import SpanVectors, reachable

NEEDS = frozenset({Need.DISPLACEMENTS})
LOOSE = "Fractional flows may cancel where no path does. Try BranchAndBound()."
#: Up to this many schedules each is tried: a second or two.
FEW = 40_000_000


@final
@dataclass(frozen=True, eq=False)
class VectorSum(ScheduleSolver):
    r"""Minimise the norm of the sum of what each skipped span does to the result.

    A reference implementation, for its certificates: with fitted forecasts its schedules are no
    better than the default policy's in seven of the eight settings of docs/regret.md.

    .. math:: \min_S f' M f = E \Big\| \sum_{(i \to j) \in S} d(i \to j) \Big\|^2, \qquad
        M_{e e'} = E \langle d_e, d_{e'} \rangle

    with M of the problem's displacements and f the unit flow of the path on the span graph.
    Displacements add up as vectors; span costs do not add up. Not additive, so no dynamic
    program is exact; the search is a strategy: ``Enumeration()``, ``Beam(width)`` or
    ``BranchAndBound()``. By default every schedule is tried if there are at most forty million,
    and branch and bound proves the optimum or a gap if there are more.

    M comes from :meth:`~otcache_solvers.costs.displacement.Displacement.displacements`. For another
    Gram it is ``Displacements(N, spans, M[None])``; for vectors D (a row per span) M = D D'. It is
    factored once for all problems whose displacements are the same object.

    The bound is a :class:`Certificate`, in words in ``Solution.certificate`` and as an object in
    ``Solution.stats["certificate"]``; None if nothing was proven. How the relaxation
    ended is in ``stats["relaxed"]``.

    References:
        docs/theory.md, section 6.3.

    Args:
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
        >>> problem = ScheduleProblem(3, 2, displacements=lambda: measured)
        >>> VectorSum().solve(problem).schedule.computed
        (0, 2)
    """

    search: PathSearch | None = None
    relaxation: Relaxation | None = field(default_factory=MinNormPoint)
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise OtcacheError(
                expected("VectorSum.tolerance", self.tolerance, "at least 0 and below 1")
            )

    @property
    def abilities(self) -> Abilities:
        """Exact if every schedule is tried, by choice; a search may end with a gap."""
        return Abilities(NEEDS, exact=isinstance(self.search, Enumeration))

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Find the best schedule; span costs are not used, but spans of infinite cost are avoided.

        Raises:
            OtcacheError: if the problem has no displacements, or those of another N.
        """
        n, budget = problem.num_steps, problem.budget
        spans = self._spans(problem)
        if not reachable(spans, budget)[budget, 0]:
            return Solution(None, math.inf, Result.INFEASIBLE)
        relaxed = None if self.relaxation is None else self.relaxation.solve(spans, budget)
        few = math.comb(n - 1, budget - 1) <= FEW
        search = self.search or (Enumeration() if few else BranchAndBound())
        found = search.search(spans, budget, relaxed)
        schedule = Schedule(num_steps=n, computed=found.computed)
        certificate = self._certificate(spans, schedule, search, found, relaxed)
        stats = {"rank": spans.rank, "certificate": certificate, "relaxed": relaxed}
        if certificate is None:
            return Solution(schedule, found.value, Result.FOUND, stats={**found.stats, **stats})
        result = Result.FOUND if certificate.gap else Result.OPTIMAL
        bound, words = certificate.lower_bound, str(certificate)
        return Solution(schedule, found.value, result, bound, words, {**found.stats, **stats})

    def _spans(self, problem: ScheduleProblem) -> SpanVectors:
        spans = self._factored(displacements_of(problem, "vector-sum"))
        if problem.costs is None:
            return spans
        return replace(spans, usable=spans.usable & np.isfinite(problem.costs))

    @cached_property
    def _kept(self) -> dict[str, SpanVectors]:
        return {}

    def _factored(self, measured: Displacements) -> SpanVectors:
        spans = self._kept.get("last")
        if spans is None or spans.displacements is not measured:
            spans = self._kept["last"] = SpanVectors.of(measured, self.tolerance)
        return spans

    def _certificate(
        self,
        spans: SpanVectors,
        schedule: Schedule,
        search: PathSearch,
        found: Found,
        relaxed: Relaxed | None,
    ) -> Certificate | None:
        """Certify by the better of the two bounds; None without one."""
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


@dataclass(frozen=True)
class Certificate:
    """A lower bound of one objective, on one set of calibration samples.

    Args:
        objective: what is bounded, with its formula.
        forecaster: fills the skipped steps.
        samples: number of calibration samples the objective is a mean over.
        value: of the schedule, in the objective's units; at least 0.
        lower_bound: no schedule of the budget is below it; at most ``value``.
        method: what proved it.
        truncation: largest part of the objective that the method's low rank can miss; it loosens
            the bound and never breaks it.
        resolution: bound and value count as equal where they differ by less: the rounding of the
            measured objective.
        reason: why value and bound do not meet, and what to do; empty if they do.

    Raises:
        OtcacheError: if the bound is not between 0 and the value.

    Examples:
        >>> Certificate("x", "reuse", 4, 2.0, 1.5, "beam").gap
        0.25
    """

    objective: str
    forecaster: str
    samples: int
    value: float
    lower_bound: float
    method: str
    truncation: float = 0.0
    resolution: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.lower_bound <= self.value:
            wanted = f"between 0 and the value {self.value}"
            raise OtcacheError(expected("Certificate.lower_bound", self.lower_bound, wanted))

    @property
    def gap(self) -> float:
        """(value - lower bound) / value, in 0..1; 0 if the schedule is optimal."""
        return (self.value - self.lower_bound) / self.value if self.value else 0.0

    def __str__(self) -> str:
        found = "optimal" if not self.gap else f"within {100 * self.gap:.2g} % of optimal"
        return (
            f"{found} for {self.objective}, forecaster {self.forecaster}, "
            f"on {self.samples} calibration samples, by {self.method}; nothing else is bounded"
        )
