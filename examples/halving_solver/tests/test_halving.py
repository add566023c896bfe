"""The conformance kit is the test suite of a plugin."""

from otcache_halving.solver import Halving

from otcache_core.contracts import ScheduleSolver
from otcache_core.testing import SolverConformance


class TestHalving(SolverConformance):
    """Every conformance test of the solver contract."""

    def make_solver(self) -> ScheduleSolver:
        """Return the solver under test."""
        return Halving()
