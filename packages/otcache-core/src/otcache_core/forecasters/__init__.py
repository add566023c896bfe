"""The forecasters every executor can apply: tables of weights over the computed outputs."""

from otcache_core.forecasters.fitted import Fitted
from otcache_core.forecasters.linear import Linear
from otcache_core.forecasters.mean_velocity import MeanVelocity
from otcache_core.forecasters.mean_velocity_paper import MeanVelocityPaper
from otcache_core.forecasters.reuse import Reuse
from otcache_core.forecasters.strength import StrengthCurve, linear_weights, strengths
from otcache_core.forecasters.taylor import Taylor

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
