"""Paths under the norm of a vector sum.

In order: ``span_vectors`` factors the displacements, ``relaxation`` bounds every path from below, ``search``
and ``branch_and_bound`` look for the best one, ``solver`` certifies it.
"""
