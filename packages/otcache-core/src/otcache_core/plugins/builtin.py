"""What core itself offers, through the same door as every other plugin."""

from __future__ import annotations

from otcache_core.plugins.hookspecs import hookimpl
from otcache_core.plugins.info import Info


@hookimpl
def otcache_provide_solvers() -> list[Info]:
    """Offer the two solvers that need no dependency."""
    return [
        Info("uniform", "otcache_core.solvers.uniform:Uniform", "evenly spaced computed steps"),
        Info(
            "brute-force",
            "otcache_core.solvers.brute_force:BruteForce",
            "every schedule of the budget; the oracle for small N",
        ),
    ]


@hookimpl
def otcache_provide_forecasters() -> list[Info]:
    """Offer the three forecasters of METHODS.md."""
    return [
        Info("reuse", "otcache_core.forecasters.reuse:Reuse", "repeat the last computed output"),
        Info(
            "linear",
            "otcache_core.forecasters.linear:Linear",
            "extrapolate the last two computed outputs in the grid coordinate",
        ),
        Info(
            "fitted",
            "otcache_core.forecasters.fitted:Fitted",
            "combine the last m computed outputs with the schedule's fitted weights",
        ),
    ]
