"""The vector-sum solver against every schedule, and its bounds against the optimum."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, ScheduleProblem
from otcache_core.problem import Displacements, all_spans
from otcache_core.testing import ToySampler
from otcache_solvers.costs.displacement import Displacement
from otcache_solvers.vector_sum.branch_and_bound import BranchAndBound
from otcache_solvers.vector_sum.relaxation import Closure, MinNormPoint, QuadraticProgram
from otcache_solvers.vector_sum.search import Beam, Enumeration
from otcache_solvers.vector_sum.solver import Certificate, VectorSum
from otcache_solvers.vector_sum.span_vectors import SpanVectors

#: Differences of this size are rounding of a Gram whose entries are about 1.
NOISE = 1e-11


def make(n, rank, seed, *, samples=1, grow=0.0, cap=None):
    """Random displacement vectors; ``grow`` adds a common part, as real ones have."""
    rng = np.random.default_rng(seed)
    spans = all_spans(n, cap)
    size = np.array([j - i - 1.0 for i, j in spans]) / n
    D = rng.standard_normal((samples, len(spans), rank)) * size[:, None] ** 1.5
    if rank:
        D[:, :, 0] += grow * size
    return Displacements(n, spans, D @ D.transpose(0, 2, 1)), D


def problem_of(measured, budget, **given):
    return ScheduleProblem(measured.num_steps, budget, displacements=lambda: measured, **given)


def true_value(D, measured, steps):
    """|| sum of d ||^2 straight from the vectors; None for a path that is not there."""
    total = np.zeros((D.shape[0], D.shape[2]))
    for i, j in itertools.pairwise((*steps, measured.num_steps)):
        if j > i + 1:
            if (i, j) not in measured.spans:
                return math.inf
            total += D[:, measured.spans.index((i, j))]
    return float((total**2).sum(axis=1).mean())


def brute(D, measured, budget):
    n = measured.num_steps
    every = ((0, *rest) for rest in itertools.combinations(range(1, n), budget - 1))
    return min(true_value(D, measured, steps) for steps in every)


@st.composite
def cases(draw):
    n = draw(st.integers(1, 9))
    measured, D = make(
        n,
        draw(st.integers(0, 4)),
        draw(st.integers(0, 10**6)),
        samples=draw(st.integers(1, 2)),
        grow=draw(st.sampled_from((0.0, 1.0, 5.0))),
        cap=draw(st.sampled_from((None, 3))),
    )
    return measured, D, draw(st.integers(1, n)), draw(st.sampled_from((0.0, 1e-9, 0.3, 0.9)))


SEARCHES = (
    Enumeration(),
    Beam(2),
    BranchAndBound(),
    BranchAndBound(Beam(1), width=1, max_width=3, probes=1),
    BranchAndBound(probes=0),
)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_every_search_against_all_schedules(case):
    measured, D, budget, tolerance = case
    best = brute(D, measured, budget)
    problem = problem_of(measured, budget)
    for search in SEARCHES:
        got = VectorSum(search, tolerance=tolerance).solve(problem)
        if math.isinf(best):
            assert got.result is Result.INFEASIBLE
            continue
        assert got.objective == pytest.approx(
            true_value(D, measured, got.schedule.computed), abs=NOISE
        )
        assert got.objective >= best - NOISE
        assert 0 <= got.lower_bound <= best + NOISE
        if got.result is Result.OPTIMAL:
            assert got.objective == pytest.approx(best, abs=NOISE)
            assert got.stats["certificate"].gap == 0
        if isinstance(search, Enumeration):
            assert got.result is Result.OPTIMAL


@given(cases())
@settings(max_examples=60, deadline=None)
def test_short_vectors_bound_the_objective_from_below_by_no_more_than_they_say(case):
    measured, D, budget, tolerance = case
    spans = SpanVectors.of(measured, tolerance)
    n = measured.num_steps
    assert spans.neglected <= tolerance + 1e-15
    for rest in itertools.combinations(range(1, n), budget - 1):
        nodes = (0, *rest, n)
        whole = true_value(D, measured, nodes[:-1])
        if math.isfinite(whole):
            short = sum(spans.vectors[i, j] for i, j in itertools.pairwise(nodes))
            missed = whole - float((np.asarray(short) ** 2).sum())
            assert -NOISE <= missed <= spans.truncation(budget) + NOISE


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [2, 4, 7])
def test_the_two_relaxations_agree_and_stay_below_the_optimum(seed, budget):
    """Two algorithms, one polytope: Wolfe's nearest point and an interior-point QP."""
    measured, D = make(10, 3, seed, grow=4.0)
    spans = SpanVectors.of(measured)
    wolfe = MinNormPoint(tolerance=1e-7).solve(spans, budget)
    program = QuadraticProgram().solve(spans, budget)
    assert wolfe.closure is program.closure is Closure.SOLVED
    assert wolfe.lower_bound == pytest.approx(program.upper, rel=1e-3)
    assert wolfe.lower_bound >= program.lower_bound * (1 - 1e-6)
    best = brute(D, measured, budget)
    assert 0.3 * best < wolfe.lower_bound <= best + NOISE


def test_a_layered_relaxation_is_tight_at_the_ends():
    """One path at B = 1 and at B = N, so the polytope is a point."""
    measured, D = make(6, 3, 0)
    spans = SpanVectors.of(measured)
    for relaxation in (MinNormPoint(), QuadraticProgram()):
        assert relaxation.solve(spans, 1).lower_bound == pytest.approx(
            true_value(D, measured, (0,)), rel=1e-5
        )
        assert relaxation.solve(spans, 6).lower_bound == 0


@pytest.mark.remedy("may cancel where no path does. Try BranchAndBound()", value=True)
def test_fractional_flows_cancel_vectors_and_the_search_says_that_it_proved_nothing():
    """Two paths with opposite displacements: the relaxation is 0, both paths have norm 1."""
    measured = Displacements(3, ((0, 2), (1, 3)), np.array([[[1.0, -1.0], [-1.0, 1.0]]]))
    got = VectorSum(Beam(4)).solve(problem_of(measured, 2))
    assert (got.objective, got.lower_bound) == (1.0, 0.0)
    assert got.result is Result.FOUND
    assert got.stats["certificate"].gap == 1
    assert "Try BranchAndBound()" in got.stats["certificate"].reason
    assert VectorSum(BranchAndBound()).solve(problem_of(measured, 2)).lower_bound == 1.0


@pytest.mark.remedy("Try more iterations, or another `solver`", value=True)
@pytest.mark.parametrize("options", [(("max_iter", 2),), (("max_iter", 5),)])
def test_the_bound_of_a_qp_that_stops_early_is_valid_and_says_so(options):
    measured, D = make(10, 3, 1, grow=4.0)
    spans = SpanVectors.of(measured)
    relaxed = QuadraticProgram(options=options).solve(spans, 4)
    assert relaxed.closure in (Closure.LOOSE, Closure.FAILED)
    assert relaxed.detail
    assert relaxed.lower_bound <= brute(D, measured, 4)
    for better in (QuadraticProgram(), QuadraticProgram("OSQP"), MinNormPoint()):
        assert better.solve(spans, 4).closure is Closure.SOLVED


@pytest.mark.remedy("Try another `solver`, or `MinNormPoint()`", value=True)
def test_a_qp_solver_that_fails_leaves_a_schedule_without_a_certificate_and_the_reason():
    measured, _ = make(10, 3, 1, grow=4.0)
    failing = QuadraticProgram("OSQP", (("max_iter", 20), ("eps_abs", -1.0)))
    got = VectorSum(Beam(), failing).solve(problem_of(measured, 4))
    assert got.stats["relaxed"].closure is Closure.FAILED
    assert got.stats["relaxed"].detail
    assert "MinNormPoint()" in got.stats["relaxed"].closure.value
    assert (got.lower_bound, got.stats["certificate"], got.certificate) == (None, None, "")
    for better in (QuadraticProgram("CLARABEL"), MinNormPoint()):
        assert VectorSum(Beam(), better).solve(problem_of(measured, 4)).certificate


def test_a_beam_alone_has_no_certificate():
    measured, _ = make(10, 3, 1)
    got = VectorSum(Beam(), relaxation=None).solve(problem_of(measured, 4))
    assert got.result is Result.FOUND
    assert (got.lower_bound, got.stats["certificate"], got.certificate) == (None, None, "")


def test_the_certificate_names_what_it_bounds():
    sampler = ToySampler(num_steps=10)
    measured = Displacement().displacements(sampler.trajectories(), sampler.evaluator())
    got = VectorSum().solve(problem_of(measured, 4))
    certificate = got.stats["certificate"]
    assert (certificate.forecaster, certificate.samples, certificate.gap) == ("reuse", 3, 0.0)
    assert certificate.value == certificate.lower_bound == got.objective == got.lower_bound
    assert certificate.method == "enumeration"
    assert got.certificate.startswith("optimal for f' M f (latent displacement under reuse")
    assert "one gain per step" in got.certificate
    assert "on 3 calibration samples" in got.certificate


def test_a_wider_search_never_bounds_worse_and_ends_with_the_optimum():
    """Vectors that cancel, so that one pass is not enough."""
    measured, _ = make(16, 8, 3)
    problem = problem_of(measured, 6)
    best = VectorSum(Enumeration()).solve(problem).objective
    bounds = []
    for width in (1, 16, 256, 4096):
        search = BranchAndBound(Beam(1), width=width, max_width=width)
        got = VectorSum(search).solve(problem)
        assert got.lower_bound <= best * (1 + 1e-9)
        bounds.append(got.lower_bound)
    assert bounds[0] < bounds[-1] == pytest.approx(best)
    assert bounds == sorted(bounds)


def test_limits_are_told_in_words():
    measured, _ = make(16, 8, 3)
    for search, words in (
        (BranchAndBound(width=1, max_width=2), "raise `max_width`"),
        (BranchAndBound(seconds=1e-9), "raise `seconds`"),
    ):
        got = VectorSum(search).solve(problem_of(measured, 6))
        assert got.result is Result.FOUND
        assert words in got.stats["certificate"].reason
        assert got.lower_bound < got.objective


@pytest.mark.parametrize("scale", [1e-60, 1e-12, 1e30])
def test_the_unit_of_the_displacements_does_not_matter(scale):
    measured, _ = make(12, 4, 5, grow=3.0)
    scaled = Displacements(12, measured.spans, measured.per_sample * scale)
    for search in (Enumeration(), BranchAndBound()):
        plain, other = (VectorSum(search).solve(problem_of(m, 4)) for m in (measured, scaled))
        assert plain.schedule == other.schedule
        assert other.objective == pytest.approx(scale * plain.objective)
        assert other.result is Result.OPTIMAL


def test_nothing_displaced_is_optimal_at_once():
    spans = all_spans(8)
    measured = Displacements(8, spans, np.zeros((1, len(spans), len(spans))))
    for search in SEARCHES:
        got = VectorSum(search).solve(problem_of(measured, 3))
        assert (got.objective, got.lower_bound, got.result) == (0.0, 0.0, Result.OPTIMAL)


def test_spans_of_infinite_cost_are_avoided():
    measured, _ = make(8, 3, 0)
    start, stop = np.indices((8, 9))
    costs = np.where(stop - start > 3, np.inf, 0.0)
    for search in SEARCHES:
        got = VectorSum(search).solve(problem_of(measured, 3, costs=costs))
        assert max(b - a for a, b in itertools.pairwise((*got.schedule.computed, 8))) == 3
        none = VectorSum(search).solve(problem_of(measured, 2, costs=costs))
        assert none.result is Result.INFEASIBLE
        assert none.schedule is None


def test_displacements_are_factored_once_while_they_are_the_same(monkeypatch):
    factored, of = [], SpanVectors.of
    monkeypatch.setattr(SpanVectors, "of", lambda *given: factored.append(given) or of(*given))
    (one, _), (other, _), solver = make(8, 3, 0), make(8, 3, 1), VectorSum()
    solver.frontier(problem_of(one, 5))
    values = [solver.solve(problem_of(m, 4)).objective for m in (one, other, other, one)]
    assert len(factored) == 3
    assert values[0] == values[3] != values[1] == values[2]
    assert values[1] == VectorSum().solve(problem_of(other, 4)).objective


def test_bad_input_is_refused_in_words():
    measured, _ = make(8, 3, 0)
    with pytest.raises(OtcacheError, match=r"num_steps must be 8, as the displacements, got 9"):
        VectorSum().solve(ScheduleProblem(9, 3, displacements=lambda: measured))
    with pytest.raises(OtcacheError, match=r"schedules with N = 8, B = 4 must be at most 10, got"):
        VectorSum(Enumeration(10)).solve(problem_of(measured, 4))
    with pytest.raises(OtcacheError, match=r"QuadraticProgram.solver must be one of .*CLARABEL"):
        VectorSum(Beam(), QuadraticProgram("none")).solve(problem_of(measured, 4))
    for wrong in (
        lambda: VectorSum(tolerance=1.0),
        lambda: VectorSum(tolerance=math.nan),
        lambda: SpanVectors.of(measured, -0.1),
        lambda: Beam(0),
        lambda: BranchAndBound(width=0),
        lambda: BranchAndBound(width=10, max_width=9),
        lambda: BranchAndBound(seconds=0.0),
        lambda: MinNormPoint(tolerance=0.0),
        lambda: MinNormPoint(max_iterations=0),
        lambda: Certificate("x", "reuse", 1, 1.0, 2.0, "m"),
        lambda: Certificate("x", "reuse", 1, 1.0, math.nan, "m"),
    ):
        with pytest.raises(OtcacheError, match="must be"):
            wrong()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_gram_that_is_none_is_refused_where_it_is_made(bad):
    with pytest.raises(OtcacheError, match=r"NaN or infinity|least eigenvalue -1"):
        Displacements(2, ((0, 2),), np.full((1, 1, 1), bad))


def test_thirty_steps_are_enumerated_and_branch_and_bound_agrees():
    """1.56 million schedules at B = 8; at B = 13 there are too many to try by default."""
    sampler = ToySampler(num_steps=30, num_samples=2)
    measured = Displacement().displacements(sampler.trajectories(), sampler.evaluator())
    problem = problem_of(measured, 8)
    every = VectorSum().solve(problem)
    bounded = VectorSum(BranchAndBound()).solve(problem)
    assert every.stats["schedules"] == math.comb(29, 7)
    assert every.stats["certificate"].gap == bounded.stats["certificate"].gap == 0
    assert bounded.objective == pytest.approx(every.objective, rel=1e-8)
    more = VectorSum().solve(problem_of(measured, 13)).stats["certificate"]
    assert more.method == "branch and bound"
    assert more.gap <= 0.1


@pytest.mark.parametrize("relaxation", [None, MinNormPoint(), QuadraticProgram()])
def test_branch_and_bound_needs_no_relaxation_at_its_root(relaxation):
    measured, D = make(10, 4, 3, grow=2.0)
    got = VectorSum(BranchAndBound(), relaxation).solve(problem_of(measured, 4))
    assert got.stats["certificate"].gap == 0
    assert got.objective == pytest.approx(brute(D, measured, 4))
