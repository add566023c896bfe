"""The two solvers that need no dependency: the plain rule, and the oracle."""

from otcache_core.solvers.brute_force import BruteForce
from otcache_core.solvers.uniform import Uniform

__all__ = ["BruteForce", "Uniform"]
