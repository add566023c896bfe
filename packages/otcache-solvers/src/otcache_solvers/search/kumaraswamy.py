"""A family of smooth warps with two parameters, and one bump."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core import Schedule
from otcache_core.warp import levels, quantile_function, round_to_steps

LIMITS = {"log_a": (-1.5, 1.5), "log_b": (-1.5, 1.5), "bump": (-0.15, 0.15), "centre": (0.1, 0.9)}
WIDTH = 0.12


@dataclass(frozen=True)
class Kumaraswamy:
    r"""A quantile function: where on the timeline the u-th part of the computed steps lies.

    .. math:: Q(u) = 1 - (1 - u^a)^b + h\, e^{-(u - c)^2 / 2 \sigma^2}

    (a, b) = (1, 1) is the uniform schedule; a > 1 puts more of the steps early in the run, b > 1
    more of them late. The bump moves the steps around u = c by h runs (sigma = 0.12).

    References:
        P. Kumaraswamy, A generalized probability density function for double-bounded random
        processes (1980), https://doi.org/10.1016/0022-1694(80)90036-0

    Args:
        log_a: log a.
        log_b: log b.
        bump: h, as a fraction of the run.
        centre: c, in [0, 1].

    Examples:
        >>> Kumaraswamy().schedule(num_steps=12, budget=4).computed
        (0, 3, 6, 9)
        >>> Kumaraswamy(log_a=0.7).schedule(num_steps=12, budget=4).computed
        (0, 1, 3, 7)
    """

    log_a: float = 0.0
    log_b: float = 0.0
    bump: float = 0.0
    centre: float = 0.5

    def __call__(self, u: ArrayLike) -> NDArray[np.float64]:
        """Q(u) for u in [0, 1]; not monotone if the bump is steep, which rounding mends."""
        x = np.asarray(u, dtype=np.float64)
        smooth = _smooth(x, self.log_a, self.log_b)
        return smooth + self.bump * np.exp(-0.5 * ((x - self.centre) / WIDTH) ** 2)

    def schedule(self, num_steps: int, budget: int) -> Schedule:
        """The B distinct steps nearest to Q((m-1)/B), by core's exact rounding."""
        steps = round_to_steps(self(levels(budget)), num_steps)
        return Schedule(num_steps=num_steps, computed=steps)

    @classmethod
    def nearest(cls, schedule: Schedule, resolution: int = 61) -> Kumaraswamy:
        """The warp closest to a schedule's own: least squares for (a, b), the bump on the rest.

        Args:
            schedule: any.
            resolution: grid points for each of log a and log b.
        """
        u = np.linspace(0, 1, 65)
        target = quantile_function(schedule)(u)
        a, b = (np.linspace(*LIMITS[name], resolution) for name in ("log_a", "log_b"))
        tried = _smooth(u, a[:, None, None], b[None, :, None])
        misfit = np.square(tried - target).sum(axis=-1)
        i, j = np.unravel_index(misfit.argmin(), misfit.shape)
        rest = target - tried[i, j]
        inner = (u >= LIMITS["centre"][0]) & (u <= LIMITS["centre"][1])
        at = int(np.where(inner, np.abs(rest), -1.0).argmax())
        return cls(
            float(a[i]), float(b[j]), float(np.clip(rest[at], *LIMITS["bump"])), float(u[at])
        )


def _smooth(u: NDArray[np.float64], log_a: ArrayLike, log_b: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(1 - (1 - u ** np.exp(log_a)) ** np.exp(log_b))
