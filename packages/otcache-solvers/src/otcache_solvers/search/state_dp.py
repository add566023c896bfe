"""A dynamic program whose labels carry the state that the schedule is really in: OSS's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, Evaluator, ScheduleSolver
from otcache_solvers.needs import PIPELINE, check_least, evaluator_of

Steps = tuple[int, ...]


@final
@dataclass(frozen=True)
class StateDP(ScheduleSolver):
    r"""Least distance to the full run's state, label by label.

    A reference implementation: with reuse its error is above the default policy's at every budget
    of docs/quality.md.

    A label (m, j) is the one path of m computed steps that arrives nearest to x_j:

    .. math:: D(m, j) = \min_{i < j} E \left\| x_j(P_{m-1,i} \cup \{i\}) - x_j \right\|,
        \qquad P_{m,j} = P_{m-1,i^*} \cup \{i^*\}

    where x_j(S) is the state of the run that really follows S and skips from i to j. So the cost of
    a span depends on the path before it, which a span graph cannot express; and since a path that
    is farther off at j may still end nearer, Bellman's principle does not hold: the schedule is FOUND,
    not optimal.

    One run that computes P, then i, then nothing more, gives all j > i at once. All budgets up to
    B share one table, and cost about B N evaluations per sample: the new step of each label, plus
    the steps before it that the evaluator cannot share.

    References:
        OSS: Optimal Stepsize for Diffusion Sampling (2025), https://arxiv.org/abs/2503.21774: the
        search over steps, without the learned step sizes. docs/theory.md, section 9.4.

    Args:
        samples: how many of the evaluator's samples to use; all by default.
        forecaster: fills the skipped steps; one that needs no stored weights.

    Raises:
        OtcacheError: if ``samples`` is below 1.
    """

    samples: int | None = None
    forecaster: str = "reuse"

    def __post_init__(self) -> None:
        check_least(self, ", or None", samples=1)

    @property
    def abilities(self) -> Abilities:
        """All budgets from one table; whether forecasts are counted is the forecaster's."""
        return Abilities(PIPELINE, all_budgets=True, forecasts=self.forecaster != "reuse")

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Find the schedule of the problem's budget; the objective is D(B, N).

        Raises:
            OtcacheError: if the problem has no evaluator, or one that compares results only.
        """
        return self.frontier(problem)[-1]

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """Find schedules of the budgets 1 .. B, from one table; ``nfe`` is that of all so far.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        n, evaluator = problem.num_steps, evaluator_of(problem, "state-dp")
        paths: dict[int, Steps] = {0: ()}
        found, nfe = [], 0
        for _ in range(problem.budget):
            tried = {i: (*path, i) for i, path in paths.items() if i < n}
            distance, spent = self._distances(evaluator, list(tried.values()), n)
            nfe += spent
            paths, nearest = _nearest(tried, distance)
            schedule = self._schedule(paths[n], n)
            found.append(Solution(schedule, nearest[n], Result.FOUND, nfe=nfe))
        return found

    def _distances(
        self, evaluator: Evaluator, tried: list[Steps], n: int
    ) -> tuple[NDArray[np.float64], int]:
        """Measure E ||x_j - x_j^full|| of paths, shape (paths, N + 1); infinite if a run broke."""
        samples = range(min(self.samples or evaluator.num_samples, evaluator.num_samples))
        ran = evaluator.drift([self._schedule(path, n) for path in tried], samples=samples)
        mean = ran.errors.mean(axis=1)
        return np.where(np.isfinite(mean), mean, np.inf), ran.nfe

    def _schedule(self, computed: Steps, n: int) -> Schedule:
        return Schedule(num_steps=n, computed=computed, forecaster=self.forecaster)


def _nearest(
    tried: dict[int, Steps], distance: NDArray[np.float64]
) -> tuple[dict[int, Steps], dict[int, float]]:
    """Find the best path into every step, and its distance; of equal ones the earliest last step's."""
    starts = np.array(list(tried))
    paths: dict[int, Steps] = {}
    nearest: dict[int, float] = {}
    for j in range(int(starts.min()) + 1, distance.shape[1]):
        column = np.where(starts < j, distance[:, j], np.inf)
        best = int(column.argmin())
        paths[j], nearest[j] = tried[int(starts[best])], float(column[best])
    if not math.isfinite(nearest[distance.shape[1] - 1]):
        raise OtcacheError("every run of state-dp broke: NaN or infinity in its states.")
    return paths, nearest
