"""Refine the forecast weights of a schedule on the error at the end of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import KeptOut, OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, Evaluator, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.transport import levels, round_to_steps
from otcache_solvers.needs import PIPELINE, evaluator_of
from otcache_solvers.search.trial_book import mean_error

Array = NDArray[np.float64]


@final
@dataclass(frozen=True)
class GaussNewton(ScheduleSolver):
    r"""One damped Gauss-Newton step on all weights c of a schedule at once.

    Off by default: on the demo it pays without guidance and not with it (docs/quality.md).

    .. math:: c' = c - \big(\sum_n \omega_n J_n^T J_n + \mu D\big)^{-1} \sum_n \omega_n J_n^T e_n,
        \qquad \omega_n = \| e_n \|^{-2}

    with e_n the final-latent error of sample n, J its Jacobian by forward differences through whole
    accelerated runs (no autograd, any model) and D the diagonal. The sums come from the Gram
    matrices of the evaluation, so no tensor is seen; the weights :math:`\omega` make it a step on
    the mean log error, since errors are heavy-tailed. The damping is the one that does best under
    leave-one-out over the samples, which costs nothing more. The step is taken only if the true
    error falls on samples that were kept out of it; else the schedule is returned as it was.

    A step costs (weights + 1) B evaluations per sample, less what an evaluator shares: moving a weight
    of the m-th span changes nothing before the m+1-th computed step.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, section 10.3; docs/theory.md,
        section 8.3.

    Args:
        objective: name of the evaluator's objective that decides; its default if None.
        split: part of the samples kept out (the last ones), above 0 and below 1; at least one.
        dampings: mu tried, relative to the diagonal.
        step: of the forward differences, relative to the weight (at least a tenth).
        max_nfe: a step that may cost more evaluations is not made: the schedule comes back as it
            was, with BUDGET_SPENT; None for no limit.

    Raises:
        OtcacheError: if a number is out of range.
    """

    abilities = Abilities(PIPELINE, forecasts=True)

    objective: str | None = None
    split: float = 0.25
    dampings: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    step: float = 1e-2
    max_nfe: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.split < 1:
            raise OtcacheError(expected("GaussNewton.split", self.split, "above 0 and below 1"))
        if not self.dampings or min(self.dampings) <= 0:
            raise OtcacheError(expected("GaussNewton.dampings", self.dampings, "all above 0"))
        if not self.step > 0:
            raise OtcacheError(expected("GaussNewton.step", self.step, "above 0"))

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Refine the problem's reference; an even schedule fitted in closed loop if it has none.

        The objective is the error on the samples kept out, and ``kept_out`` that before and after.

        Raises:
            OtcacheError: if the problem has no evaluator, it has fewer than two samples, or the
                reference has another budget.
        """
        evaluator = evaluator_of(problem, "gauss-newton")
        if evaluator.num_samples < 2:
            raise OtcacheError(
                expected("samples", evaluator.num_samples, "at least 2", "one is kept out.")
            )
        n = evaluator.num_samples
        kept = range(n - max(1, int(self.split * n)), n)
        start, nfe = self._start(problem, evaluator)
        cost = nfe + _cost(WeightVector.of(start), n - len(kept), len(kept))
        if self.max_nfe is not None and cost > self.max_nfe:
            advice = (
                f"A step may cost {cost} evaluations. Raise `max_nfe` ({self.max_nfe}) to that."
            )
            stats = {"cost": cost, "advice": advice}
            return Solution(start, np.inf, Result.BUDGET_SPENT, stats=stats, nfe=nfe)
        better, spent = self._refined(start, evaluator, range(kept.start))
        ran = evaluator.evaluate([start, better], objective=self.objective, samples=kept)
        held = KeptOut(*mean_error(ran.errors, robust=True))
        return Solution(
            better if held.accepted else start,
            held.refined if held.accepted else held.start,
            Result.FOUND,
            nfe=nfe + spent + ran.nfe,
            kept_out=held,
        )

    def _start(self, problem: ScheduleProblem, evaluator: Evaluator) -> tuple[Schedule, int]:
        given = problem.reference
        if given is None or given.budget != problem.budget:
            computed = round_to_steps(levels(problem.budget), problem.num_steps)
            given = Schedule(num_steps=problem.num_steps, computed=computed)
        if given.weights:
            return given, 0
        plain = Schedule(num_steps=problem.num_steps, computed=given.computed)
        ran = evaluator.evaluate([plain], objective=self.objective, fit=True)
        return ran.schedules[0], ran.nfe

    def _refined(
        self, start: Schedule, evaluator: Evaluator, samples: range
    ) -> tuple[Schedule, int]:
        vector = WeightVector.of(start)
        c = vector.values
        if not len(c):
            return start, 0
        h = self.step * np.maximum(np.abs(c), 0.1)
        moved = [vector.schedule(c + row) for row in np.diag(h)]
        ran = evaluator.evaluate([start, *moved], objective=self.objective, samples=samples)
        if not np.isfinite(ran.grams).all():
            return start, ran.nfe
        normal, toward = _system(ran.grams, h)
        change = self._step(normal, toward)
        return vector.schedule(c + change), ran.nfe

    def _step(self, normal: Array, toward: Array) -> Array:
        """Compute the damped step; normal of shape (samples, P, P), toward (samples, P), scaled by omega."""
        n = len(normal)
        total, sum_toward = normal.sum(0), toward.sum(0)

        def held_out_error(mu: float) -> float:
            """Predict the mean log squared error of each sample from the step of the others."""
            logs = []
            for one, t in zip(normal, toward, strict=True):
                rest = (total - one, sum_toward - t) if n > 1 else (total, sum_toward)
                d = _solve(*rest, mu)
                logs.append(np.log(max(1.0 + 2.0 * float(t @ d) + float(d @ one @ d), 1e-12)))
            return float(np.mean(logs))

        best = min(self.dampings, key=held_out_error)
        return _solve(total, sum_toward, best)


def _cost(vector: WeightVector, fitted: int, kept: int) -> int:
    """Count the evaluations of a step, if schedules share outputs as long as their steps agree."""
    budget = vector.base.budget
    moved = sum(budget - 1 - m for _, m, _ in vector.places)
    return fitted * (budget + moved) + kept * 2 * budget


def _system(grams: Array, h: Array) -> tuple[Array, Array]:
    """Compute omega J'J and omega J'e of each sample, from the Gram of e and of e + h_p J_p."""
    e = grams[:, 0, 0]
    omega = 1.0 / np.maximum(e, np.finfo(float).tiny)
    cross = grams[:, 0, 1:]
    inner = grams[:, 1:, 1:] - cross[:, :, None] - cross[:, None, :] + e[:, None, None]
    normal = inner / np.outer(h, h)
    toward = (cross - e[:, None]) / h
    return omega[:, None, None] * normal, omega[:, None] * toward


def _solve(normal: Array, toward: Array, mu: float) -> Array:
    damped = normal + mu * np.diag(np.diagonal(normal)) + np.finfo(float).tiny * np.eye(len(normal))
    return np.asarray(-np.linalg.lstsq(damped, toward, rcond=None)[0])


@dataclass(frozen=True)
class WeightVector:
    """The weights that do something: those of spans that skip a step.

    If branches have weights of their own, those are varied; the shared ones, which only serve
    branches without, stay as they are.

    Args:
        base: the schedule.
        places: (branch, span, r) of each entry; the empty branch is the shared weights.
    """

    base: Schedule
    places: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, schedule: Schedule) -> WeightVector:
        """Return the vector of a schedule with stored weights."""
        names = [name for name, _ in schedule.branch_weights] or [""]
        places = [
            (name, m, r)
            for name in names
            for m, span in enumerate(schedule.spans(name))
            if span.skipped
            for r in range(len(span.weights))
        ]
        return cls(schedule, tuple(places))

    @property
    def values(self) -> NDArray[np.float64]:
        """The weights in the order of ``places``."""
        tables = self._tables()
        return np.array([tables[name][m][r] for name, m, r in self.places])

    def schedule(self, values: NDArray[np.float64]) -> Schedule:
        """Return the schedule with other weights at these places."""
        tables = self._tables()
        for (name, m, r), value in zip(self.places, values.tolist(), strict=True):
            tables[name][m][r] = value
        shared = tables.pop("")
        return self.base.with_weights(shared, tables)

    def _tables(self) -> dict[str, list[list[float]]]:
        pairs = [("", self.base.weights), *self.base.branch_weights]
        return {name: [list(row) for row in rows] for name, rows in pairs}
