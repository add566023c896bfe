"""Contract of a cost model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.displacements import Displacements
from otcache_core.errors import OtcacheError
from otcache_core.problem import check_costs
from otcache_core.schedule import Schedule
from otcache_core.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class SpanCosts:
    """w(i -> j) of every span and what it cost to know.

    Args:
        costs: shape (N, N + 1), see :class:`~otcache_core.problem.ScheduleProblem`.
        nfe: denoiser evaluations spent beyond the recorded runs.
        samples: number of samples the costs are a mean over.
    """

    costs: NDArray[np.float64]
    nfe: int
    samples: int

    def __post_init__(self) -> None:
        check_costs(self.costs, len(self.costs))

    def applied(self, schedule: Schedule) -> Schedule:
        """The schedule with the forecast whose costs these are; itself where they are those of reuse."""
        return schedule


class CostModel(ABC):
    """Price each span (i -> j) of skipped steps.

    Laws: the cost of a span of length one is 0; costs are finite and >= 0 for every span the model
    covers (``inf`` where a span cap leaves one out); the price in NFE is what was spent.
    """

    @abstractmethod
    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        """Called once per calibration; may not change the trajectories.

        Args:
            trajectories: recorded full runs, one a sample, all of the same N.
            evaluator: for models that need more evaluations; its samples are the trajectories'.

        Raises:
            OtcacheError: if there is no trajectory, or an evaluator is needed and missing.
        """

    def displacements(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> Displacements:
        """What skipping each span does, as vectors, for solvers that need them; arguments as in ``measure``.

        Raises:
            OtcacheError: if this model knows sizes only, as most do.
        """
        raise OtcacheError(
            f"{type(self).__name__} prices spans by numbers, not vectors: use the cost model 'displacement'."
        )
