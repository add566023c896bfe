"""Optimal transport between two schedules, and the schedule of any budget between them.

In order: ``quantile`` is the closed form; ``exact_lp``, ``sinkhorn`` and ``unbalanced`` find a coupling on
any ground cost; ``geodesic`` makes the schedule from it.
"""
