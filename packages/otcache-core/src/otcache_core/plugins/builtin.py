"""What core itself offers, through the same door as every other plugin."""

from __future__ import annotations

from otcache_core.plugins.info import Info, hookimpl


@hookimpl
def otcache_provide_solvers() -> list[Info]:
    """Offer the two solvers that need no dependency."""
    return [
        Info("uniform", "otcache_core.solvers:Uniform", "evenly spaced computed steps"),
        Info(
            "brute-force",
            "otcache_core.solvers:BruteForce",
            "every schedule of the budget; the oracle for small N",
        ),
    ]


@hookimpl
def otcache_provide_forecasters() -> list[Info]:
    """Offer the forecasters that need numpy alone (docs/theory.md, section 7)."""
    return [
        Info(
            "reuse",
            "otcache_core.forecasters.extrapolation:Reuse",
            "repeat the last computed output",
        ),
        Info(
            "linear",
            "otcache_core.forecasters.extrapolation:Linear",
            "extrapolate the last two computed outputs in the grid coordinate",
        ),
        Info(
            "fitted",
            "otcache_core.forecasters.extrapolation:Fitted",
            "combine the last m computed outputs with the schedule's fitted weights",
        ),
        Info(
            "taylor",
            "otcache_core.forecasters.extrapolation:Taylor",
            "Taylor series of order 2 in the step index, by finite differences (TaylorSeer)",
        ),
        Info(
            "taylor-1",
            "otcache_core.forecasters.extrapolation:Taylor",
            "Taylor series of order 1 in the step index (TaylorSeer)",
            options={"order": 1},
        ),
        Info(
            "taylor-3",
            "otcache_core.forecasters.extrapolation:Taylor",
            "Taylor series of order 3 in the step index (TaylorSeer)",
            options={"order": 3},
        ),
        Info(
            "mean-velocity",
            "otcache_core.forecasters.mean_velocity:MeanVelocity",
            "correct step by step by the mean velocity of the last h steps (MeanCache, released)",
        ),
        Info(
            "mean-velocity-paper",
            "otcache_core.forecasters.mean_velocity:MeanVelocityPaper",
            "one mean velocity a span, from the h steps before it (MeanCache, paper)",
        ),
    ]
