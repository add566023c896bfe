"""How a deviation at the end of a span is carried to the end of the run."""

from otcache_solvers.costs.propagation.base import Propagation
from otcache_solvers.costs.propagation.exact import Exact
from otcache_solvers.costs.propagation.scalar_gain import ScalarGain

__all__ = ["Exact", "Propagation", "ScalarGain"]
