"""Paths and flows on the span graph under the norm of a vector sum."""

from otcache_solvers.vector_sum.beam import Beam
from otcache_solvers.vector_sum.branch_and_bound import BranchAndBound
from otcache_solvers.vector_sum.enumeration import Enumeration
from otcache_solvers.vector_sum.relaxation import (
    MinNormPoint,
    QuadraticProgram,
    Relaxation,
    Relaxed,
)
from otcache_solvers.vector_sum.search import Found, PathSearch
from otcache_solvers.vector_sum.span_vectors import SpanVectors

__all__ = [
    "Beam",
    "BranchAndBound",
    "Enumeration",
    "Found",
    "MinNormPoint",
    "PathSearch",
    "QuadraticProgram",
    "Relaxation",
    "Relaxed",
    "SpanVectors",
]
