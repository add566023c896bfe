"""The two solvers that need no dependency: the plain rule, and the oracle."""

from otcache_core.solvers.plain import BruteForce, Uniform

__all__ = ["BruteForce", "Uniform"]
