"""Unbalanced transport against linear programs, POT's own iterations, and its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem
from otcache_solvers.transport.exact_lp import HiGHS, NetworkSimplex
from otcache_solvers.transport.geodesic import between, ground_cost
from otcache_solvers.transport.sinkhorn import EpsilonSchedule
from otcache_solvers.transport.unbalanced import KullbackLeibler, TotalVariation, Unbalanced

N = 16
PAIR = Schedule(N, (0, 5, 11)), Schedule(N, (0, 1, 3, 4, 8, 13, 15))


@st.composite
def ends(draw: Any, equal: bool = False) -> tuple[Schedule, Schedule]:
    budget = draw(st.integers(1, 5))
    budgets = budget, budget if equal else draw(st.integers(budget + 1, 9))
    rests = [draw(st.permutations(range(1, N)))[: b - 1] for b in budgets]
    return tuple(Schedule(N, (0, *sorted(rest))) for rest in rests)


@st.composite
def ground(draw: Any) -> np.ndarray:
    cost = np.random.default_rng(draw(st.integers(0, 1000))).random((N, N))
    np.fill_diagonal(cost, 0.0)
    return cost


def _units(pair: tuple[Schedule, Schedule]) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(pair[0].budget), np.ones(pair[1].budget)


def _solve(pair: tuple[Schedule, Schedule], budget: int, **settings: Any) -> Any:
    problem = ScheduleProblem(N, budget, anchor=pair[0], reference=pair[1])
    return Unbalanced(**settings).solve(problem)


@given(ends(), ground())
@settings(max_examples=25, deadline=None)
def test_with_a_large_total_variation_penalty_the_smaller_mass_is_moved(pair, cost):
    """And the move is the best injection, which scipy's assignment finds independently."""
    from scipy.optimize import linear_sum_assignment

    costs = between(cost, *pair)
    pi = TotalVariation(1.0).couple(*_units(pair), costs).pi
    assert pi.sum() == pytest.approx(pair[0].budget)
    assert (pi * costs).sum() == pytest.approx(costs[linear_sum_assignment(costs)].sum())


@given(ends(), ground(), st.floats(0.01, 0.5))
@settings(max_examples=20, deadline=None)
def test_total_variation_is_optimal_among_all_partial_plans(pair, cost, weight):
    """Return min <C - 2 rho, pi> under row and column sums of at most one, by a plain linear program."""
    from scipy.optimize import linprog

    costs = between(cost, *pair)
    rows, columns = costs.shape
    limits = np.vstack(
        [np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))]
    )
    best = linprog((costs - 2 * weight).ravel(), A_ub=limits, b_ub=np.ones(rows + columns)).fun
    for backend in (NetworkSimplex(), HiGHS()):
        pi = TotalVariation(weight, backend).couple(*_units(pair), costs).pi
        assert ((costs - 2 * weight) * pi).sum() == pytest.approx(best, abs=1e-9)
        assert not pi[costs > 2 * weight + 1e-9].any()


def test_a_small_penalty_moves_nothing_and_steps_come_and_go_in_place():
    pair = Schedule(N, (0, 5, 11)), Schedule(N, (0, 2, 4, 8, 13))
    penalty = TotalVariation(1e-4)
    assert _solve(pair, 4, penalty=penalty).stats["transported"] == pytest.approx(1.0)  # step 0


@pytest.mark.parametrize("budgets", [(2, 8), (3, 12), (4, 4)])
def test_with_kl_the_transported_mass_tends_to_the_geometric_mean(budgets):
    pair = tuple(Schedule(N, tuple(range(b))) for b in budgets)
    costs = between(ground_cost("step", ScheduleProblem(N, 1)), *pair)
    wanted = math.sqrt(math.prod(budgets))
    off = []
    for weight in (0.1, 1.0, 10.0, 100.0):
        coupling = KullbackLeibler(weight, EpsilonSchedule(end=1e-2)).couple(*_units(pair), costs)
        assert coupling.converged
        off.append(abs(coupling.pi.sum() - wanted))
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-3 * wanted


@given(ends(equal=True))
@settings(max_examples=4, deadline=None)
def test_for_equal_masses_both_tend_to_balanced_transport_as_the_penalty_grows(pair):
    costs = between(ground_cost("step", ScheduleProblem(N, 1)), *pair)
    balanced = float((NetworkSimplex()(*_units(pair), costs) * costs).sum())
    hard = TotalVariation(1.0).couple(*_units(pair), costs).pi
    assert (hard * costs).sum() == pytest.approx(balanced, abs=1e-12)
    sharp = KullbackLeibler(50.0, EpsilonSchedule(end=1e-2), tolerance=1e-4).couple(
        *_units(pair), costs
    )
    np.testing.assert_allclose(sharp.pi.sum(1), 1.0, atol=2e-2)
    np.testing.assert_allclose(sharp.pi.sum(0), 1.0, atol=2e-2)
    # The entropy of a pi of mass B is worth at most epsilon B log B.
    blur = 1e-2 * costs.max() * pair[0].budget * math.log(max(2, pair[0].budget))
    assert (sharp.pi * costs).sum() <= balanced + blur + 1e-3 * (balanced + 1e-9)


@pytest.mark.parametrize("weight", [0.05, 0.5, 5.0])
def test_kl_is_what_pots_own_iterations_reach(weight):
    import ot

    costs = between(ground_cost("step", ScheduleProblem(N, 1)), *PAIR)
    mu, nu = _units(PAIR)
    epsilon = 0.02 * costs.max()
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        mu, nu, costs, epsilon, weight, reg_type="kl", numItermax=200_000, stopThr=1e-13
    )
    ours = KullbackLeibler(weight, EpsilonSchedule(end=0.02), tolerance=1e-9).couple(mu, nu, costs)
    assert ours.converged
    np.testing.assert_allclose(ours.pi, theirs, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_the_fall_of_epsilon_leads_to_the_problem_without_entropy(weight):
    import ot

    costs = between(ground_cost("step", ScheduleProblem(N, 1)), *PAIR)
    mu, nu = _units(PAIR)
    plain = ot.unbalanced.mm_unbalanced(mu, nu, costs, weight, div="kl", numItermax=100_000)

    def value(pi: np.ndarray) -> float:
        def kl(p: np.ndarray, q: np.ndarray) -> float:
            return float((p * np.log(p / q) - p + q).sum())

        return float((pi * costs).sum()) + weight * (kl(pi.sum(1), mu) + kl(pi.sum(0), nu))

    above = [
        value(KullbackLeibler(weight, EpsilonSchedule(end=e)).couple(mu, nu, costs).pi)
        - value(plain)
        for e in (0.3, 0.1, 0.03, 0.01)
    ]
    assert above == sorted(above, reverse=True)
    assert -1e-6 < above[-1] < 0.05 * above[0]


@given(ends(), ground(), st.sampled_from([TotalVariation(), KullbackLeibler(0.3)]))
@settings(max_examples=10, deadline=None)
def test_anchor_and_reference_come_back_whatever_the_cost(pair, cost, penalty):
    for end, lam in zip(pair, (0.0, 1.0), strict=True):
        solution = _solve(pair, end.budget, cost=cost, penalty=penalty)
        assert solution.schedule is end
        assert solution.stats["lam"] == lam
        assert solution.objective == pytest.approx(0.0, abs=1e-12)  # the measure itself is the end


@given(ends(), st.integers(1, N))
@settings(max_examples=25, deadline=None)
def test_every_budget_gets_its_steps_and_lam_is_linear_in_it(pair, budget):
    solution = _solve(pair, budget)
    assert solution.schedule.budget == budget
    anchor, reference = (end.budget for end in pair)
    inside = min(max(budget, anchor), reference)
    lam = solution.stats["lam"]
    assert (1 - lam) * anchor + lam * reference == pytest.approx(inside)


@pytest.mark.parametrize("penalty", [TotalVariation(), KullbackLeibler()])
def test_mass_at_shared_steps_stays_there(penalty):
    shared = Schedule(N, (0, 8)), Schedule(N, (0, 2, 8, 12))
    pi = penalty.couple(
        *_units(shared), between(ground_cost("step", ScheduleProblem(N, 1)), *shared)
    ).pi
    assert pi[0].argmax() == 0
    assert pi[1].argmax() == 2


def test_the_order_of_the_budgets_does_not_matter():
    for budget in range(1, N + 1):
        forth, back = (_solve(pair, budget) for pair in (PAIR, PAIR[::-1]))
        assert forth.objective == pytest.approx(back.objective, abs=1e-9)


def test_equal_budgets_jump_above_their_own():
    pair = Schedule(N, (0, 5, 11)), Schedule(N, (0, 2, 3))
    assert _solve(pair, 3).schedule is pair[0]
    assert _solve(pair, 4).stats["lam"] == 1.0


@pytest.mark.remedy("Raise `max_iterations` or the last epsilon", value=True)
def test_a_stopped_iteration_says_so_and_what_to_do():
    stopped = _solve(PAIR, 5, penalty=KullbackLeibler(max_iterations=3))
    assert stopped.result is Result.BUDGET_SPENT
    assert stopped.lower_bound is None
    assert stopped.certificate == ""
    assert stopped.stats["marginal_residual"] > 1e-5
    assert "did not converge" in stopped.stats["advice"]
    assert "Raise `max_iterations`" in stopped.stats["advice"]
    done = _solve(PAIR, 5, penalty=KullbackLeibler())
    assert done.result is Result.OPTIMAL
    assert done.stats["marginal_residual"] <= 1e-5
    assert "advice" not in done.stats


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TotalVariation(0.0), "TotalVariation.weight must be above 0 and finite, got 0.0"),
        (lambda: KullbackLeibler(math.inf), "use ExactLP or Sinkhorn"),
        (lambda: KullbackLeibler(math.nan), "KullbackLeibler.weight"),
        (lambda: KullbackLeibler(tolerance=0.0), "tolerance must be above 0"),
        (lambda: KullbackLeibler(max_iterations=0), "max_iterations must be at least 1"),
        (lambda: _solve(PAIR, 4, cost=np.zeros((3, 3))), r"of shape \(16, 16\)"),
    ],
)
def test_bad_settings_are_refused_in_words(make, message):
    with pytest.raises(OtcacheError, match=message):
        make()


def test_without_pot_the_error_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(OtcacheError, match=r"pip install 'POT>=0.9.5'"):
        _solve(PAIR, 4)
    assert _solve(PAIR, 4, penalty=TotalVariation(backend=HiGHS())).schedule.budget == 4
