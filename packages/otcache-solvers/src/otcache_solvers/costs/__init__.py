"""Cost models: what a span of skipped steps is expected to cost."""

from otcache_solvers.costs.forecast import ForecastCosts
from otcache_solvers.costs.gram import Gram
from otcache_solvers.costs.outcome import Outcome

__all__ = ["ForecastCosts", "Gram", "Outcome"]
