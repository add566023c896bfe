"""Paths and flows on the span graph under the norm of a vector sum."""

from otcache_solvers.flows.beam import Beam
from otcache_solvers.flows.branch_and_bound import BranchAndBound
from otcache_solvers.flows.enumeration import Enumeration
from otcache_solvers.flows.relaxation import MinNormPoint, QuadraticProgram, Relaxation, Relaxed
from otcache_solvers.flows.search import Found, PathSearch
from otcache_solvers.flows.span_vectors import SpanVectors

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
