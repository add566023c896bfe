"""What an error advises is done here, and the error is gone."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import requires

import numpy as np
import pytest

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem
from otcache_core.contracts import Evaluation
from otcache_core.problem import Displacements, all_spans
from otcache_core.solvers import BruteForce
from otcache_core.testing import ToyEvaluator, ToySampler
from otcache_solvers.additive.second_order import OpenLoopFit, SecondOrder
from otcache_solvers.additive.shortest_path import Lexicographic, PeakSuppressed, ShortestPath
from otcache_solvers.costs.displacement import Displacement, Local
from otcache_solvers.costs.gram import Gram, GramCosts
from otcache_solvers.costs.mean_velocity import LookbackCosts, MeanVelocity
from otcache_solvers.costs.outcome import Outcome
from otcache_solvers.costs.samples import SampleCosts
from otcache_solvers.needs import library
from otcache_solvers.search.anchor import AnchorSearch
from otcache_solvers.transport.exact_lp import ExactLP, HiGHS, NetworkSimplex
from otcache_solvers.transport.geodesic import ground_cost
from otcache_solvers.transport.quantile import Quantile
from otcache_solvers.transport.sinkhorn import Sinkhorn
from otcache_solvers.transport.unbalanced import KullbackLeibler, Unbalanced
from otcache_solvers.vector_sum.branch_and_bound import BranchAndBound
from otcache_solvers.vector_sum.relaxation import MinNormPoint, QuadraticProgram
from otcache_solvers.vector_sum.search import Enumeration
from otcache_solvers.vector_sum.solver import VectorSum

SAMPLER = ToySampler(num_steps=7, num_samples=3, power=1.5)
RUNS = SAMPLER.trajectories()
PROBLEM = ScheduleProblem(7, 3)
ENDS = {"anchor": Schedule(7, (0, 3)), "reference": Schedule(7, (0, 1, 2, 4))}


def displaced(n: int = 8, seed: int = 0) -> Displacements:
    """Random displacements whose fractional flows cancel better than paths do."""
    vectors = np.random.default_rng(seed).standard_normal((1, len(all_spans(n)), 4))
    return Displacements(n, all_spans(n), vectors @ vectors.transpose(0, 2, 1))


class OfDtype(ToyEvaluator):
    """Results of a pipeline whose errors are large, in a floating-point type."""

    def __init__(self, dtype: type[np.floating]) -> None:
        super().__init__(SAMPLER)
        self.dtype = dtype

    def evaluate(self, schedules, **settings):
        ran = super().evaluate(schedules, **settings)
        with np.errstate(over="ignore"):
            errors, grams = ((1e9 * a).astype(self.dtype) for a in (ran.errors, ran.grams))
        return Evaluation(ran.schedules, errors, ran.nfe, grams)


@pytest.mark.remedy("{} need a recorded full run, got none: record one first")
@pytest.mark.parametrize(
    "measure",
    [
        lambda runs: Displacement().measure(runs, SAMPLER.evaluator()),
        Gram.of,
        Local().measure,
        MeanVelocity().measure,
        lambda runs: Outcome().measure(runs, SAMPLER.evaluator()),
    ],
)
def test_record_one_first(measure):
    with pytest.raises(OtcacheError, match="got none: record one first"):
        measure([])
    measure(RUNS[:1])


@pytest.mark.remedy("recorded runs must share one grid, got several: record them all on one grid")
@pytest.mark.parametrize("model", [GramCosts(), Displacement()])
def test_record_them_all_on_one_grid(model):
    six = replace(SAMPLER, num_samples=6).evaluator()
    with pytest.raises(OtcacheError, match="share one grid"):
        model.measure([*RUNS, *replace(SAMPLER, power=1.0).trajectories()], six)
    model.measure([*RUNS, *replace(SAMPLER, seed=1).trajectories()], six)


@pytest.mark.parametrize(
    ("make", "bad", "good"),
    [
        pytest.param(
            Gram,
            np.full((1, 2, 2), np.inf),
            Gram.of(RUNS).per_sample,
            marks=pytest.mark.remedy("Gram.per_sample holds NaN or infinity: record the runs aga"),
        ),
        pytest.param(
            lambda gram: OpenLoopFit(gram, SAMPLER.grid),
            np.full((7, 7), np.nan),
            Gram.of(RUNS).matrix,
            marks=pytest.mark.remedy("{} holds NaN or infinity: record the runs again"),
        ),
        pytest.param(
            lambda table: LookbackCosts((1,), table),
            np.full((1, 1, 7, 8), np.inf),
            MeanVelocity().lookback_costs(RUNS).per_sample[:, :1],
            marks=pytest.mark.remedy("be finite and >= 0, got another value: record the runs"),
        ),
        pytest.param(
            lambda grams: Displacements(7, all_spans(7), grams),
            np.full((1, 21, 21), np.nan),
            Displacement().displacements(RUNS, OfDtype(np.float32)).per_sample,
            marks=pytest.mark.remedy("Displacements.per_sample holds NaN or infinity: the pipeli"
                                     "ne returned them; try float32 or bfloat16"),
        ),
    ],
)  # fmt: skip
def test_what_is_recorded_again_is_finite(make, bad, good):
    with pytest.raises(OtcacheError, match=r"NaN|finite"):
        make(bad)
    make(good)


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(
            Outcome().measure,
            marks=pytest.mark.remedy("errors of spans that stop at {} must be finite and >= 0, got "
                                     "others: the pipeline returned NaN or infinity; try float32"),
        ),
        pytest.param(
            Displacement().measure,
            marks=pytest.mark.remedy("displacements must be finite, got others: the pipeline "
                                     "returned NaN or infinity; try float32 or bfloat16"),
        ),
        pytest.param(
            lambda _, evaluator: AnchorSearch(3, 0).solve(replace(PROBLEM, evaluator=evaluator)),
            marks=pytest.mark.remedy("schedule of the {} ended in NaN or infinity: try float32 or"),
        ),
    ],
)  # fmt: skip
def test_try_float32(measure):
    with pytest.raises(OtcacheError, match=r"NaN or infinity.* try float32 or bfloat16"):
        measure(RUNS, OfDtype(np.float16))
    measure(RUNS, OfDtype(np.float32))


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(
            Outcome().measure,
            marks=pytest.mark.remedy("outcome costs run the pipeline, got no evaluator: pass the pro"),
        ),
        pytest.param(
            Displacement().measure,
            marks=pytest.mark.remedy("this propagation runs the pipeline, got no evaluator: pass "
                                     "the probe's, or use the cost model 'local'"),
        ),
    ],
)  # fmt: skip
def test_pass_the_probes_evaluator(measure):
    with pytest.raises(OtcacheError, match="got no evaluator"):
        measure(RUNS)
    measure(RUNS, SAMPLER.evaluator())
    Local().measure(RUNS)


@pytest.mark.remedy("must omit the same spans for all samples, got others: measure them with")
def test_costs_of_shards_are_measured_with_one_span_cap():
    shards = [Outcome(span_cap=cap).measure(RUNS, SAMPLER.evaluator()).costs for cap in (3, 4)]
    with pytest.raises(OtcacheError, match="omit the same spans"):
        SampleCosts("outcome", np.stack(shards))
    SampleCosts("outcome", np.stack([shards[0], shards[0]]))


@pytest.mark.parametrize(
    ("solver", "given"),
    [
        pytest.param(
            ShortestPath(),
            {"costs": Local().measure(RUNS).costs},
            marks=pytest.mark.remedy("needs span costs, got none: measure them with a cost model "
                                     "and pass costs=..."),
        ),
        pytest.param(
            Quantile(),
            ENDS,
            marks=pytest.mark.remedy("between two schedules, got no {}: pass anchor=... and ref"),
        ),
        pytest.param(
            AnchorSearch(max_trials=2, climb_trials=0),
            {"evaluator": SAMPLER.evaluator()},
            marks=pytest.mark.remedy("runs the pipeline, got no evaluator: pass evaluator=..."),
        ),
        pytest.param(
            SecondOrder(),
            {"gram": Gram.of(RUNS).matrix, "grid": RUNS[0].grid},
            marks=pytest.mark.remedy("the Gram matrix of the outputs, got none: pass gram=Gram.of("),
        ),
        pytest.param(
            VectorSum(),
            {"displacements": lambda: Displacement().displacements(RUNS, SAMPLER.evaluator())},
            marks=pytest.mark.remedy("needs displacements, got none: measure them with Displacement"),
        ),
    ],
)  # fmt: skip
def test_a_problem_is_given_what_its_solver_needs(solver, given):
    with pytest.raises(OtcacheError, match="got no"):
        solver.solve(PROBLEM)
    assert solver.solve(replace(PROBLEM, **given)).schedule.budget == 3


@pytest.mark.remedy("needs the grid, got none: pass grid=trajectories[0].grid")
@pytest.mark.parametrize("solver", [SecondOrder(), ExactLP("noise")])
def test_a_problem_is_given_its_grid(solver):
    problem = replace(PROBLEM, gram=Gram.of(RUNS).matrix, **ENDS)
    with pytest.raises(OtcacheError, match="needs the grid, got none"):
        solver.solve(problem)
    assert solver.solve(replace(problem, grid=RUNS[0].grid)).schedule.budget == 3


@pytest.mark.remedy("it names a study in a storage. Pass storage=...")
def test_a_study_is_named_in_a_storage(tmp_path):
    with pytest.raises(OtcacheError, match=r"Pass storage="):
        AnchorSearch(study="mine")
    AnchorSearch(study="mine", storage=f"sqlite:///{tmp_path}/search.db")


@pytest.mark.remedy("to the power {} do not fit a float: set gamma={} or less, or use the 'lexi")
@pytest.mark.parametrize(("gamma", "low"), [(300.0, 1e-2), (4.0, 1e-200), (1.0, 1e-300)])
def test_a_gamma_whose_powers_fit_is_named(gamma, low):
    costs = np.triu(np.full((9, 10), low), k=2)
    costs[0, 2] = 1.0
    problem = ScheduleProblem(9, 2, costs=costs)
    with pytest.raises(OtcacheError, match="set gamma=") as caught:
        PeakSuppressed(gamma).solve(problem)
    named = float(str(caught.value).split("gamma=")[1].split()[0])
    assert PeakSuppressed(named).solve(problem).schedule.budget == 2
    assert Lexicographic().solve(problem).schedule.budget == 2


@pytest.mark.remedy("to the power {} does not fit a float: divide the costs by it")
@pytest.mark.parametrize("scale", [1e90, 1e-90])
def test_costs_are_divided_by_their_largest(scale):
    costs = scale * np.triu(np.random.default_rng(0).random((9, 10)), k=2)
    with pytest.raises(OtcacheError, match="does not fit a float: divide the costs by it"):
        PeakSuppressed().solve(ScheduleProblem(9, 2, costs=costs))
    scaled = ScheduleProblem(9, 2, costs=costs / costs.max())
    assert PeakSuppressed().solve(scaled).schedule.budget == 2


@pytest.mark.remedy("or a negative entry: give moves that should not happen a large cost instead")
def test_a_move_that_should_not_happen_has_a_large_cost():
    problem = ScheduleProblem(5, 2)
    cost = ground_cost("step", problem)
    cost[0, 4] = np.inf
    with pytest.raises(OtcacheError, match="a large cost instead"):
        ground_cost(cost, problem)
    cost[0, 4] = 1e6
    ground_cost(cost, problem)


@pytest.mark.remedy("of a run that never changes: use cost='step'")
@pytest.mark.parametrize("solver", [ExactLP("noise"), Unbalanced(cost="trajectory")])
def test_a_run_that_never_changes_has_the_ground_cost_step(solver):
    still = {"gram": np.ones((7, 7)), "grid": np.full(8, 0.5)}
    problem = replace(PROBLEM, **ENDS, **still)
    with pytest.raises(OtcacheError, match="use cost='step'"):
        solver.solve(problem)
    assert replace(solver, cost="step").solve(problem).schedule.budget == 3


@pytest.mark.remedy("Use backend=HiGHS(), or raise `max_iterations` ({})")
@pytest.mark.remedy("Use backend=NetworkSimplex().")
def test_transport_that_did_not_converge(monkeypatch):
    mu, nu = np.full(3, 1 / 3), np.full(7, 1 / 7)
    cost = np.random.default_rng(0).random((3, 7))
    with pytest.raises(OtcacheError, match=r"Use backend=HiGHS\(\), or raise `max_iterations`"):
        NetworkSimplex(max_iterations=1)(mu, nu, cost)
    pi = HiGHS()(mu, nu, cost)
    np.testing.assert_allclose(NetworkSimplex(max_iterations=100)(mu, nu, cost), pi, atol=1e-12)
    unsolved = type("Unsolved", (), {"x": None, "success": False, "message": "no optimum"})
    monkeypatch.setattr("scipy.optimize.linprog", lambda *_, **__: unsolved)
    with pytest.raises(OtcacheError, match=r"Use backend=NetworkSimplex\(\)"):
        HiGHS()(mu, nu, cost)
    np.testing.assert_allclose(NetworkSimplex()(mu, nu, cost), pi, atol=1e-12)


@pytest.mark.remedy("use BranchAndBound() instead")
def test_too_many_schedules_to_try():
    problem = ScheduleProblem(8, 4, displacements=displaced)
    with pytest.raises(OtcacheError, match=r"use BranchAndBound\(\) instead"):
        VectorSum(Enumeration(max_schedules=10)).solve(problem)
    assert VectorSum(BranchAndBound()).solve(problem).result is Result.OPTIMAL


@pytest.mark.remedy("the layers were cut to {} labels: raise `max_width`", value=True)
@pytest.mark.remedy("the time limit of {} s was reached: raise `seconds`", value=True)
def test_a_gap_says_how_to_close_it():
    problem = ScheduleProblem(16, 5, displacements=lambda: displaced(16))

    def certified(search):
        return VectorSum(search, MinNormPoint()).solve(problem).stats["certificate"]

    stopped = {
        "raise `max_width`": BranchAndBound(width=1, max_width=1, probes=0),
        "raise `seconds`": BranchAndBound(width=1, max_width=2, seconds=1e-9, probes=0),
    }
    for advice, search in stopped.items():
        certificate = certified(search)
        assert certificate.gap > 0
        assert advice in certificate.reason
    done = certified(BranchAndBound(width=1, seconds=60.0))
    assert (done.gap, done.reason) == (0, "")


@pytest.mark.remedy("pip install {}'{}'")
@pytest.mark.remedy("use backend=HiGHS()")
@pytest.mark.remedy("use MinNormPoint()")
def test_a_missing_library_is_installed_or_done_without(monkeypatch):
    pair = np.full(2, 0.5), np.full(2, 0.5), np.ones((2, 2))
    problem = ScheduleProblem(6, 3, displacements=lambda: displaced(6))
    with monkeypatch.context() as missing:
        for name in ("networkx", "ot", "cvxpy"):
            missing.setitem(sys.modules, name, None)
        with pytest.raises(OtcacheError, match="pip install 'networkx") as caught:
            library("networkx", "this")
        assert str(caught.value).split("'")[1] in requires("otcache-solvers")
        with pytest.raises(OtcacheError, match=r"or use backend=HiGHS\(\)"):
            NetworkSimplex()(*pair)
        HiGHS()(*pair)
        with pytest.raises(OtcacheError, match=r"or use MinNormPoint\(\)"):
            VectorSum(relaxation=QuadraticProgram()).solve(problem)
        VectorSum(relaxation=MinNormPoint()).solve(problem)
    library("networkx", "this")


@pytest.mark.remedy(
    "brute-force needs costs, got none: measure them with a cost model such as Local()"
)
@pytest.mark.remedy("use an exact solver of otcache-solvers, ShortestPath() or Lexicographic()")
def test_brute_force_names_what_is_not_beside_it():
    with pytest.raises(OtcacheError, match=r"such as Local\(\) of otcache-solvers and pass costs"):
        BruteForce().solve(PROBLEM)
    problem = replace(PROBLEM, costs=Local().measure(RUNS).costs)
    assert BruteForce().solve(problem).schedule is not None
    with pytest.raises(OtcacheError, match=r"use an exact solver of otcache-solvers, Shortest"):
        BruteForce(max_candidates=3).solve(problem)
    assert ShortestPath().solve(problem).result is Result.OPTIMAL
    assert Lexicographic().solve(problem).result is Result.OPTIMAL


@pytest.mark.remedy("use ExactLP or Sinkhorn for transport without creation")
def test_transport_without_creation():
    with pytest.raises(OtcacheError, match="use ExactLP or Sinkhorn"):
        KullbackLeibler(np.inf)
    ends = replace(PROBLEM, **ENDS)
    for solver in (ExactLP(), Sinkhorn()):
        assert solver.solve(ends).result is Result.OPTIMAL
