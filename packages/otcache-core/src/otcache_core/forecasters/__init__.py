"""The forecasters every executor can apply: tables of weights over the computed outputs."""

from otcache_core.forecasters.extrapolation import Fitted, Linear, Reuse, Taylor
from otcache_core.forecasters.mean_velocity import MeanVelocity, MeanVelocityPaper
from otcache_core.forecasters.strength import StrengthCurve, linear_weights, strengths

__all__ = [
    "Fitted",
    "Linear",
    "MeanVelocity",
    "MeanVelocityPaper",
    "Reuse",
    "StrengthCurve",
    "Taylor",
    "linear_weights",
    "strengths",
]
