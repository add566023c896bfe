"""A heavy library that is missing is one clear error with the line that installs it."""

from __future__ import annotations

import sys
from importlib.metadata import requires

import numpy as np
import pytest

from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.problem import Displacements
from otcache_core.testing import ToySampler
from otcache_solvers.additive.shortest_path import ShortestPath
from otcache_solvers.needs import REQUIREMENTS, library
from otcache_solvers.search.anchor import AnchorSearch
from otcache_solvers.transport.exact_lp import ExactLP, HiGHS
from otcache_solvers.vector_sum.relaxation import MinNormPoint, QuadraticProgram
from otcache_solvers.vector_sum.solver import VectorSum

ENDS = Schedule(6, (0, 3)), Schedule(6, (0, 1, 2, 4))
SPANS = tuple((i, j) for i in range(6) for j in range(i + 2, 7))
PROBLEM = ScheduleProblem(
    6,
    3,
    np.triu(np.ones((6, 7)), k=2),
    *ENDS,
    ToySampler(num_steps=6).evaluator(),
    displacements=lambda: Displacements(6, SPANS, np.eye(len(SPANS))[None]),
)


@pytest.mark.parametrize(
    ("module", "solver", "words"),
    [
        ("networkx", ShortestPath(), "solver 'shortest-path' needs networkx"),
        ("optuna", AnchorSearch(max_trials=2), "solver 'anchor-search' needs optuna"),
        ("cvxpy", VectorSum(relaxation=QuadraticProgram()), r"or use MinNormPoint\(\)"),
        ("scipy.optimize", VectorSum(relaxation=MinNormPoint()), "needs scipy"),
        ("scipy.optimize", ExactLP(backend=HiGHS()), "by HiGHS needs scipy"),
        ("ot", ExactLP(), r"needs POT.*or use backend=HiGHS\(\)"),
    ],
)
def test_a_missing_library_is_named_with_the_line_that_installs_it(
    monkeypatch, module, solver, words
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OtcacheError, match=words) as caught:
        solver.solve(PROBLEM)
    assert str(caught.value).split("'")[-2] == REQUIREMENTS[module.split(".")[0]]
    assert isinstance(caught.value.__cause__, ImportError)


def test_the_lines_are_the_requirements_of_the_package():
    declared = {line.lower() for line in requires("otcache-solvers")}
    assert {line.lower() for line in REQUIREMENTS.values()} <= declared


def test_a_library_that_fails_to_import_is_not_said_to_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx.utils", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "networkx"]:
        if name != "networkx.utils":
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        OtcacheError, match=r"networkx, which is broken \(.*networkx\.utils.*--force-reinstall"
    ):
        library("networkx", "this test")
