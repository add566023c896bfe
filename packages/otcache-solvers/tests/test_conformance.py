"""Every plugin of the package passes core's kit, through the door third parties use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from otcache_core import OtcacheError, ScheduleProblem
from otcache_core.plugins import Registry
from otcache_core.testing import CostModelConformance, SolverConformance, ToySampler
from otcache_solvers import plugin
from otcache_solvers.costs import Gram
from otcache_solvers.costs.displacement import Displacement
from otcache_solvers.flows import Beam, BranchAndBound, PathSearch
from otcache_solvers.penalties import KullbackLeibler


def create(kind: str, name: str, **settings: Any) -> Any:
    return Registry().create(kind, name, **settings)


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


class TestSinkhorn(SolverConformance):
    def make_solver(self):
        return create("solvers", "sinkhorn")


class TestUnbalanced(SolverConformance):
    def make_solver(self):
        return create("solvers", "unbalanced")


class TestUnbalancedSoft(SolverConformance):
    def make_solver(self):
        return create("solvers", "unbalanced", penalty=KullbackLeibler())


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
        sampler = ToySampler(num_steps=self.num_steps)
        measured = Displacement().displacements(sampler.trajectories(), sampler.evaluator())
        return create("solvers", "vector-sum", displacements=measured, search=self.search)


class TestVectorSumBeam(TestVectorSum):
    search = Beam(2)


class TestVectorSumBranchAndBound(TestVectorSum):
    search = BranchAndBound()


class TestQuantile(SolverConformance):
    def make_solver(self):
        return create("solvers", "quantile")


class TestSecondOrder(SolverConformance):
    def make_solver(self):
        sampler = ToySampler(num_steps=self.num_steps)
        gram = Gram.of(sampler.trajectories()).matrix
        return create("solvers", "second-order", gram=gram, grid=sampler.grid)


class TestAnchorSearch(SolverConformance):
    def make_solver(self):
        return create("solvers", "anchor-search", max_trials=6, climb_trials=4)


class TestAnchorSearchGapsPruned(SolverConformance):
    def make_solver(self):
        settings = {"max_trials": 6, "climb_trials": 4, "space": "gaps", "prune": True}
        return create("solvers", "anchor-search", **settings)


class TestAnchorSearchIntegersStrength(SolverConformance):
    def make_solver(self):
        settings = {"max_trials": 6, "climb_trials": 4, "space": "integers"}
        return create("solvers", "anchor-search", **settings, fit=False, strength=True)


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
    with pytest.raises(OtcacheError, match="got no"):
        create("solvers", info.name).solve(ScheduleProblem(6, 3))


def test_importing_the_plugin_module_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, otcache_solvers.plugin, otcache_solvers.anchor\n"
        "import otcache_solvers.shortest_path\n"
        "heavy = {'optuna', 'networkx', 'scipy', 'ot', 'cvxpy', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_sorted_and_summarised():
    infos = plugin.otcache_provide_solvers()
    assert [i.name for i in infos] == sorted(i.name for i in infos)
    assert all(i.summary for i in infos)
    assert np.unique([i.target for i in infos]).size == len(infos)
