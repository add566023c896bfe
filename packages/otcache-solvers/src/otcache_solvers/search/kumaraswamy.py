"""A family of smooth warps with two parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core import Schedule
from otcache_core.transport import levels, quantile_function, round_to_steps

#: Range of log a and of log b in a search.
LIMITS = (-1.5, 1.5)


@dataclass(frozen=True)
class Kumaraswamy:
    r"""A quantile function: where on the timeline the u-th part of the computed steps lies.

    .. math:: Q(u) = 1 - (1 - u^a)^b

    (a, b) = (1, 1) is the uniform schedule; a > 1 puts more of the steps early in the run, b > 1
    more of them late.

    References:
        P. Kumaraswamy, A generalized probability density function for double-bounded random
        processes (1980), https://doi.org/10.1016/0022-1694(80)90036-0

    Args:
        log_a: log a.
        log_b: log b.

    Examples:
        >>> Kumaraswamy().schedule(num_steps=12, budget=4).computed
        (0, 3, 6, 9)
        >>> Kumaraswamy(log_a=0.7).schedule(num_steps=12, budget=4).computed
        (0, 1, 3, 7)
    """

    log_a: float = 0.0
    log_b: float = 0.0

    def __call__(self, u: ArrayLike) -> NDArray[np.float64]:
        """Return Q(u) for u in [0, 1]."""
        return _quantiles(np.asarray(u, dtype=np.float64), self.log_a, self.log_b)

    def schedule(self, num_steps: int, budget: int) -> Schedule:
        """Round Q((m-1)/B) to the B nearest distinct steps."""
        steps = round_to_steps(self(levels(budget)), num_steps)
        return Schedule(num_steps=num_steps, computed=steps)

    @classmethod
    def nearest(cls, schedule: Schedule, resolution: int = 61) -> Kumaraswamy:
        """Fit (a, b) to the quantile function of a schedule by least squares on a grid.

        Args:
            schedule: any.
            resolution: grid points for each of log a and log b.
        """
        u = np.linspace(0, 1, 65)
        logs = np.linspace(*LIMITS, resolution)
        tried = _quantiles(u, logs[:, None, None], logs[None, :, None])
        misfit = np.square(tried - quantile_function(schedule)(u)).sum(axis=-1)
        i, j = np.unravel_index(misfit.argmin(), misfit.shape)
        return cls(float(logs[i]), float(logs[j]))


def _quantiles(u: NDArray[np.float64], log_a: ArrayLike, log_b: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(1 - (1 - u ** np.exp(log_a)) ** np.exp(log_b))
