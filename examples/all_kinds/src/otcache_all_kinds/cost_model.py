"""The cost model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts


@final
@dataclass(frozen=True)
class OutputChange(CostModel):
    r"""What reuse moves the state by, step after step, if the states were the recorded ones.

    .. math:: w(i \to j) = E \sum_{t=i+1}^{j-1} |s_{t+1} - s_t| \, \mathrm{rms}(v_t - v_i)

    the mean over samples. It is read off the recorded runs, so it costs no evaluation.
    """

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        """Compute the cost of every span of every sample; the evaluator is not used.

        Raises:
            OtcacheError: if there is no trajectory.
        """
        if not trajectories:
            raise OtcacheError("costs need a recorded full run, got none: record one first.")
        costs = np.mean([_costs(run) for run in trajectories], axis=0)
        return SpanCosts(costs, nfe=0, samples=len(trajectories))


def _costs(run: Trajectory) -> NDArray[np.float64]:
    """Return w of one sample, shape (N, N + 1)."""
    n, h = run.num_steps, np.abs(np.diff(run.grid))
    v = np.asarray(run.outputs, dtype=np.float64)
    costs = np.zeros((n, n + 1))
    for i in range(n - 1):
        change = np.sqrt(((v[i + 1 :] - v[i]) ** 2).mean(axis=1))
        costs[i, i + 2 :] = np.cumsum(h[i + 1 :] * change)
    return costs
