"""The forecasters every executor can apply: reuse, linear extrapolation, fitted weights."""

from otcache_core.forecasters.fitted import Fitted
from otcache_core.forecasters.linear import Linear
from otcache_core.forecasters.reuse import Reuse
from otcache_core.forecasters.strength import StrengthCurve, linear_weights, strengths

__all__ = ["Fitted", "Linear", "Reuse", "StrengthCurve", "linear_weights", "strengths"]
