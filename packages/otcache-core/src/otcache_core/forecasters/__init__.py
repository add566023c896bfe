"""Forecasters: skipped outputs as weighted sums of computed ones, and weights for other budgets."""

from otcache_core.forecasters.extrapolation import Fitted, Linear, Reuse, Taylor
from otcache_core.forecasters.mean_velocity import MeanVelocity, MeanVelocityPaper
from otcache_core.forecasters.polynomials import Hermite, Spectrum
from otcache_core.forecasters.variable_order import VariableOrder

__all__ = [
    "Fitted",
    "Hermite",
    "Linear",
    "MeanVelocity",
    "MeanVelocityPaper",
    "Reuse",
    "Spectrum",
    "Taylor",
    "VariableOrder",
]
