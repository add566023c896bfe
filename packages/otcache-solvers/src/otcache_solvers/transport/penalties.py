"""What it costs to create or destroy computation instead of moving it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_solvers.transport.annealed import Annealed
from otcache_solvers.transport.coupling import Coupling
from otcache_solvers.transport.entropic import check_effort, couple
from otcache_solvers.transport.simplex import Coupler, NetworkSimplex

Floats = NDArray[np.float64]


class Penalty(ABC):
    """How far the marginals of a plan may be from mu and nu, and at what price.

    Attributes:
        exact: whether every plan is optimal; else an iteration may end before it has converged.
    """

    exact: ClassVar[bool] = False

    @abstractmethod
    def couple(self, mu: Floats, nu: Floats, cost: Floats) -> Coupling:
        """The best plan; mu and nu (above 0) may have different sums and are not changed."""


@final
@dataclass(frozen=True)
class TotalVariation(Penalty):
    r"""Partial transport: a unit is moved, or it is dropped and another one made.

    .. math:: \min_{\pi \ge 0} \langle C, \pi \rangle + \rho\, |\mu - \pi 1|_1
              + \rho\, |\nu - \pi^T 1|_1, \qquad \pi 1 \le \mu, \quad \pi^T 1 \le \nu

    exactly, as a balanced program with one more place that takes and gives anything for rho.
    Nothing moves where C exceeds 2 rho; if no C does, min(B_a, B_r) is moved, each unit whole.

    References:
        Figalli, The optimal partial transport problem, 2010.

    Args:
        weight: rho, in units of C; above 0. The default cost is below 1, so 1 moves all it can.
        backend: solves the program.

    Raises:
        OtcacheError: if the weight is out of range.
    """

    exact: ClassVar[bool] = True

    weight: float = 1.0
    backend: Coupler = field(default_factory=NetworkSimplex)

    def __post_init__(self) -> None:
        _check_weight("TotalVariation.weight", self.weight)

    def couple(self, mu: Floats, nu: Floats, cost: Floats) -> Coupling:
        """The optimal plan; see :meth:`Penalty.couple`."""
        price = np.pad(cost, ((0, 1), (0, 1)), constant_values=self.weight)
        price[-1, -1] = 0.0
        plan = self.backend(np.append(mu, nu.sum()), np.append(nu, mu.sum()), price)
        return Coupling(plan[:-1, :-1], 0.0, 0, 0.0, True)


@final
@dataclass(frozen=True)
class KullbackLeibler(Penalty):
    r"""Soft marginals: mass thins out or thickens on its way.

    .. math:: \min_{\pi \ge 0} \langle C, \pi \rangle + \rho\, KL(\pi 1 \,|\, \mu)
              + \rho\, KL(\pi^T 1 \,|\, \nu) + \epsilon\, KL(\pi \,|\, \mu \otimes \nu)

    As rho grows the transported mass tends to the geometric mean sqrt(B_a B_r). The iteration is
    slow where rho is far above the last epsilon and steps hardly exchange mass at it.

    References:
        Liero, Mielke, Savare, Optimal entropy-transport problems, 2018; Chizat, Peyre, Schmitzer,
        Vialard, Scaling algorithms for unbalanced optimal transport problems, 2018.

    Args:
        weight: rho, in units of C; above 0.
        epsilon: how epsilon falls, in shares of the largest C between the two schedules.
        tolerance: largest residual that counts as converged; above 0.
        max_iterations: passes over all values of epsilon; at least 1.

    Raises:
        OtcacheError: if a value is out of range.
    """

    weight: float = 1.0
    epsilon: Annealed = field(default_factory=Annealed)
    tolerance: float = 1e-5
    max_iterations: int = 20_000

    def __post_init__(self) -> None:
        _check_weight("KullbackLeibler.weight", self.weight)
        check_effort(self.tolerance, self.max_iterations)

    def couple(self, mu: Floats, nu: Floats, cost: Floats) -> Coupling:
        """The optimal plan, to the residual it states; see :meth:`Penalty.couple`."""
        return couple(
            mu,
            nu,
            cost,
            self.weight,
            self.epsilon,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )


def _check_weight(what: str, weight: float) -> None:
    if not 0 < weight < math.inf:
        advice = "use ExactLP or Sinkhorn for transport without creation."
        raise OtcacheError(expected(what, weight, "above 0 and finite", advice))
