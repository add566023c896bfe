"""The plugins of the facade: baselines of `otcache compare` that are schedules."""

from __future__ import annotations

from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_baselines() -> list[Info]:
    """otcache, and the published rules that are schedules on whole outputs."""
    home = "otcache.comparison.baselines"
    even, linear = f"{home}:UniformSteps", {"forecaster": "linear"}
    rules, tuned = "otcache.comparison.forecast_rules", {"tuned": True}
    spectrum = f"{rules}:Spectrum"
    return [
        Info("otcache", f"{home}:Ours", "the default policy: a given one, or calibrated here"),
        Info("otcache-uncalibrated", f"{home}:Uncalibrated", "otcache without any calibration"),
        Info("uniform", even, "evenly spaced steps, output reuse"),
        Info("uniform-linear", even, "evenly spaced steps, extrapolation", options=linear),
        Info("uniform-taylor", f"{home}:UniformTaylor", "TaylorSeer's series on whole outputs"),
        Info("spectrum", spectrum, "Spectrum's Chebyshev regression, growing windows"),
        Info("spectrum-tuned", spectrum, "the same, its form and steps tuned", options=tuned),
        Info("hicache", f"{rules}:HiCache", "evenly spaced steps, HiCache's Hermite polynomials"),
        Info("l2p", f"{rules}:LearnedSteps", "L2P's weights of each step, trained on full runs"),
        Info("lemica", f"{home}:LeMiCa", "lexicographic minimax over exact outcome costs"),
        Info("meancache", f"{home}:MeanCache", "MeanCache's released rule on its own costs"),
        Info("state-dp", f"{home}:StateDP", "OSS-like dynamic programme over true states"),
        Info("budcache", f"{home}:SimulatedAnnealing", "simulated annealing on the true error"),
        Info("flux-table", f"{home}:FluxTable", "the published table of FLUX.1, resampled"),
        Info("lemica-table", f"{home}:LeMiCaTable", "LeMiCa's published table of the pipeline"),
    ]
