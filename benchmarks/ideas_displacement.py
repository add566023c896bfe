"""Idea 3 of ideas.py: displacement vectors of forecast spans, summed along the schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ideas_bench import Bench, Row
from ideas_loop import N, Plan
from numpy.typing import NDArray

from otcache.calibration.stages import gains
from otcache_core import ScheduleProblem
from otcache_solvers.additive.second_order import SecondOrder

WIDTH = 100
ABOUT = (
    "Least E ||sum over spans of d||^2, d the displacement of a span under the open-loop forecast, "
    "times the gain of its end; a beam over labels. *Additive* is the second-order DP, the sum of the "
    "squares instead. The last row is what adoption would mean: the vector-sum schedules as further "
    "candidates at each rung. All are then fitted in closed loop."
)
CONCLUSION = (
    "**Not adopted.** With gains and memory 2 the vector sum plans, without running a schedule, what "
    "the default measures its way to: within 2 % at B = 6 and 8, the same steps at B = 10, where the "
    "additive DP is 8 to 22 % worse at B = 8 and 10; but at B = 5 it is 9 to 13 % worse, it is better "
    "than the default nowhere beyond doubt, and as a further candidate it moves the held-out error by 2 "
    "% either way. Without gains latents are 20 to 120 % worse, and a third output in the open-loop "
    "forecast does not help."
)
Floats = NDArray[np.float64]
Steps = tuple[int, ...]


def measure(bench: Bench, budget: int) -> dict[str, Row]:
    """Held-out errors of what each objective plans, all fitted alike."""
    made = bench.calibration
    growth = gains(made.span_costs, made.gram, made.grid)
    flat = np.ones(N + 1)
    problem = ScheduleProblem(N, budget, gram=made.gram, grid=made.grid, gains=growth)
    additive = SecondOrder().solve(problem).schedule
    assert additive is not None
    chosen = {"default policy": bench.steps(budget), "additive, gains": additive.computed}
    for memory in (2, 3):
        for name, g in (("gains", growth), ("no gains", flat)):
            vectors = ForecastVectors(made.gram, made.grid, g, memory)
            chosen[f"vector sum, {name}, memory {memory}"] = vectors.best(budget)
    planned = [chosen["default policy"], *list(chosen.values())[2:]]
    chosen["default or a vector sum, by tuning error"] = min(
        planned, key=lambda steps: bench.tuned(Plan.common(steps))
    )
    return {name: bench.score(Plan.common(steps)) for name, steps in chosen.items()}


@dataclass
class ForecastVectors:
    r"""The vectors d(history, k -> j) of forecast spans, and the path with the least norm of their sum.

    .. math:: d = g_j \sum_{t=k+1}^{j-1} h_t (\hat v_t - v_t), \qquad \hat v_t = \sum_r a_{t,r} v_{k_r}

    with the open-loop least squares a of the pooled outputs. As the a are the same for all samples,
    every d and every sum of them is a combination alpha of v_0 .. v_{N-1}, and
    E ||sum d||^2 = alpha' H alpha: a label of the beam is N numbers.

    Args:
        gram: H[a, b] = E <v_a, v_b>.
        grid: s_0 .. s_N.
        gains: g_0 .. g_N.
        memory: outputs that a forecast combines.
        ridge: of the least squares, relative.
    """

    gram: Floats
    grid: Floats
    gains: Floats
    memory: int
    ridge: float = 1e-4

    def spans(self, history: Steps) -> Floats:
        """alpha of the spans from the last step of ``history`` to every j; shape (N + 1, N)."""
        used, k, n = list(history[-self.memory :]), history[-1], len(self.gram)
        h = np.diff(self.grid)
        z = np.zeros((n + 1, n))  # what is skipped, for each j
        for j in range(k + 2, n + 1):
            z[j] = z[j - 1]
            z[j, j - 1] = h[j - 1]
        normal = self.gram[np.ix_(used, used)]
        damped = normal + self.ridge * np.trace(normal) / len(used) * np.eye(len(used))
        alpha = -z
        alpha[:, used] += np.linalg.solve(damped, self.gram[used] @ z.T).T
        return alpha * self.gains[:, None]

    def best(self, budget: int) -> Steps:
        """The steps of least E ||sum d||^2, by a beam of ``WIDTH`` labels for each last step."""
        known: dict[Steps, Floats] = {}
        labels: list[tuple[Steps, Floats]] = [((0,), np.zeros(len(self.gram)))]
        for left in range(budget - 1, -1, -1):
            found: dict[int, list[tuple[Steps, Floats]]] = {}
            for steps, alpha in labels:
                recent = steps[-self.memory :]
                if recent not in known:
                    known[recent] = self.spans(recent)
                # The last span ends the run; any other leaves room for the steps to come.
                stops = range(steps[-1] + 1, N - left + 1) if left else [N]
                for j in stops:
                    found.setdefault(j, []).append(((*steps, j), alpha + known[recent][j]))
            labels = [label for same in found.values() for label in self._least(same)]
        return min(self._least(labels), key=lambda label: self._norm([label])[0])[0][:-1]

    def _least(self, labels: list[tuple[Steps, Floats]]) -> list[tuple[Steps, Floats]]:
        order = np.argsort(self._norm(labels), kind="stable")
        return [labels[i] for i in order[:WIDTH]]

    def _norm(self, labels: list[tuple[Steps, Floats]]) -> Floats:
        alpha = np.stack([a for _, a in labels])
        return np.einsum("la,ab,lb->l", alpha, self.gram, alpha, optimize=True)
