"""Every plugin of the package passes core's kit, through the door third parties use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from otcache_core import OtcacheError, ScheduleProblem
from otcache_core.plugins import Registry
from otcache_core.testing import CostModelConformance, SolverConformance
from otcache_solvers import plugin
from otcache_solvers.transport.sinkhorn import EpsilonSchedule
from otcache_solvers.transport.unbalanced import KullbackLeibler
from otcache_solvers.vector_sum.branch_and_bound import BranchAndBound
from otcache_solvers.vector_sum.search import Beam, Enumeration, PathSearch

REGISTRY = Registry()


def create(kind: str, name: str, **settings: Any) -> Any:
    return REGISTRY.create(kind, name, **settings)


class TestOutcome(CostModelConformance):
    def make_cost_model(self):
        return create("cost_models", "outcome")


class TestDisplacement(CostModelConformance):
    def make_cost_model(self):
        return create("cost_models", "displacement")


class TestGram(CostModelConformance):
    def make_cost_model(self):
        return create("cost_models", "gram")


class TestLocal(CostModelConformance):
    def make_cost_model(self):
        return create("cost_models", "local")


class TestMeanVelocity(CostModelConformance):
    def make_cost_model(self):
        return create("cost_models", "mean-velocity")


class TestExactLP(SolverConformance):
    def make_solver(self):
        return create("solvers", "exact-lp")


class TestExactLPOnNoise(SolverConformance):
    def make_solver(self):
        return create("solvers", "exact-lp", cost="noise")


class TestSinkhorn(SolverConformance):
    def make_solver(self):
        return create("solvers", "sinkhorn")


class TestUnbalanced(SolverConformance):
    def make_solver(self):
        return create("solvers", "unbalanced")


class TestUnbalancedOnTrajectory(SolverConformance):
    def make_solver(self):
        return create("solvers", "unbalanced", cost="trajectory")


class TestUnbalancedSoft(SolverConformance):
    def make_solver(self):
        return create(
            "solvers", "unbalanced", penalty=KullbackLeibler(epsilon=EpsilonSchedule(end=0.02))
        )


class TestStateDP(SolverConformance):
    def make_solver(self):
        return create("solvers", "state-dp")


class TestPeakSuppressed(SolverConformance):
    def make_solver(self):
        return create("solvers", "peak-suppressed", gamma=3.0)

    def exact_objective(self):
        return lambda costs: math.fsum(w**3 for w in costs)


class TestGaussNewton(SolverConformance):
    def make_solver(self):
        return create("solvers", "gauss-newton")


class TestLexicographic(SolverConformance):
    def make_solver(self):
        return create("solvers", "lexicographic")

    def exact_objective(self):
        return max


class TestShortestPath(SolverConformance):
    def make_solver(self):
        return create("solvers", "shortest-path")

    def exact_objective(self):
        return math.fsum


class TestVectorSum(SolverConformance):
    search: PathSearch | None = None

    def make_solver(self):
        return create("solvers", "vector-sum", search=self.search)


class TestVectorSumEnumeration(TestVectorSum):
    search = Enumeration()


class TestVectorSumBeam(TestVectorSum):
    search = Beam(2)


class TestVectorSumBranchAndBound(TestVectorSum):
    search = BranchAndBound()


class TestQuantile(SolverConformance):
    def make_solver(self):
        return create("solvers", "quantile")


class TestSecondOrder(SolverConformance):
    def make_solver(self):
        return create("solvers", "second-order")


class TestSecondOrderFitted(SolverConformance):
    def make_solver(self):
        return create("solvers", "second-order", fitted=True)


class TestAnchorSearch(SolverConformance):
    def make_solver(self):
        return create("solvers", "anchor-search", max_trials=6, climb_trials=4)


class TestAnnealing(SolverConformance):
    def make_solver(self):
        return create("solvers", "annealing", iterations=12, max_trials=16)


class TestAnnealingFitted(SolverConformance):
    def make_solver(self):
        return create("solvers", "annealing", iterations=4, fit=True, relative=True, max_nfe=150)


class TestRefine(SolverConformance):
    def make_solver(self):
        return create("solvers", "refine", max_trials=12)


@pytest.mark.parametrize("info", plugin.otcache_provide_solvers(), ids=lambda info: info.name)
def test_a_solver_can_be_created_without_settings_and_says_what_it_needs(info):
    solver, problem = create("solvers", info.name), ScheduleProblem(6, 3)
    assert problem.lacks(solver.abilities.needs)
    with pytest.raises(OtcacheError, match="got no"):
        solver.solve(problem)


def test_abilities_are_those_of_the_settings():
    def able(name, **settings):
        abilities = create("solvers", name, **settings).abilities
        return abilities.exact, abilities.all_budgets, abilities.forecasts

    assert able("second-order") == (True, True, True)
    assert able("lexicographic") == able("peak-suppressed") == (True, True, False)
    assert able("state-dp") == (False, True, False)
    assert able("state-dp", forecaster="linear") == (False, True, True)
    assert able("anchor-search") == able("refine") == (False, False, True)
    assert able("anchor-search", fit=False) == able("annealing") == (False, False, False)
    assert able("unbalanced") == (True, False, False)
    assert able("unbalanced", penalty=KullbackLeibler()) == (False, False, False)
    assert able("vector-sum", search=Enumeration()) == (True, False, False)
    assert able("vector-sum") == (False, False, False)
    assert able("sinkhorn") == (False, True, False)


def test_importing_the_plugin_module_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, otcache_solvers.plugin, otcache_solvers.search.anchor\n"
        "import otcache_solvers.additive.shortest_path\n"
        "heavy = {'optuna', 'networkx', 'scipy', 'ot', 'cvxpy', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_sorted_and_summarised():
    infos = plugin.otcache_provide_solvers()
    assert [i.name for i in infos] == sorted(i.name for i in infos)
    assert all(i.summary for i in infos)
    assert np.unique([i.target for i in infos]).size == len(infos)
