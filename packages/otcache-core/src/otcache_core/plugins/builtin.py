"""Core's own plugins, offered through the same hooks as any other."""

from __future__ import annotations

from otcache_core.plugins.info import Info, hookimpl


@hookimpl
def otcache_provide_solvers() -> list[Info]:
    """Offer the solvers that need no dependency."""
    return [
        Info("uniform", "otcache_core.solvers:Uniform", "evenly spaced computed steps"),
        Info(
            "prior",
            "otcache_core.solvers:Prior",
            "the steps that are computed without any measurement",
        ),
        Info(
            "brute-force",
            "otcache_core.solvers:BruteForce",
            "every schedule of the budget; the oracle for small N",
        ),
    ]


@hookimpl
def otcache_provide_forecasters() -> list[Info]:
    """Offer the forecasters that need numpy alone (docs/theory.md, section 7)."""
    module = "otcache_core.forecasters.extrapolation"
    taylor, mean = f"{module}:Taylor", "otcache_core.forecasters.mean_velocity"
    polynomials = "otcache_core.forecasters.polynomials"
    series = "Taylor series of order {} in the step index{} (TaylorSeer)"
    return [
        Info("reuse", f"{module}:Reuse", "repeat the last computed output"),
        Info(
            "linear",
            f"{module}:Linear",
            "extrapolate the last two computed outputs in the grid coordinate",
        ),
        Info(
            "fitted",
            f"{module}:Fitted",
            "combine the last m computed outputs with the schedule's fitted weights",
        ),
        Info("taylor", taylor, series.format(2, ", by finite differences")),
        Info("taylor-1", taylor, series.format(1, ""), options={"order": 1}),
        Info("taylor-3", taylor, series.format(3, ""), options={"order": 3}),
        Info(
            "mean-velocity",
            f"{mean}:MeanVelocity",
            "correct step by step by the mean velocity of the last h steps (MeanCache, released)",
        ),
        Info(
            "mean-velocity-paper",
            f"{mean}:MeanVelocityPaper",
            "one mean velocity a span, from the h steps before it (MeanCache, paper)",
        ),
        Info(
            "hermite",
            f"{polynomials}:Hermite",
            "Taylor's differences in scaled Hermite polynomials, order 2 (HiCache)",
        ),
        Info(
            "spectrum",
            f"{polynomials}:Spectrum",
            "Chebyshev ridge regression on all computed outputs, mixed with a line (Spectrum)",
        ),
        Info(
            "spectrum-chebyshev",
            f"{polynomials}:Spectrum",
            "the same without the line, as in Spectrum's paper",
            options={"share": 1.0},
        ),
        Info(
            "variable-order",
            "otcache_core.forecasters.variable_order:VariableOrder",
            "extrapolate by the order that each sample's outputs ask for; no calibration",
        ),
        Info(
            "variable-order-flow",
            "otcache_core.forecasters.variable_order:VariableOrder",
            "the same for flows: without a prompt order 0 holds v - x",
            options={"flow": True},
        ),
    ]
