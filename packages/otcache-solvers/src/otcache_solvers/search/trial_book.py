"""The record of a search: every schedule is run once and every evaluation counted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Evaluator
from otcache_core.errors import expected
from otcache_solvers.needs import evaluator_of, objective_of

FLOOR = 1e-12
#: Of ``max_trials`` and ``max_nfe``.
OR_NO_LIMIT = ", or None for no limit"


@dataclass(frozen=True)
class Entry:
    """A schedule that was run, with the weights fitted on the way, and its error."""

    schedule: Schedule
    value: float


@dataclass
class TrialBook:
    """Runs schedules through the evaluator, each at most once.

    Args:
        evaluator: the pipeline.
        samples: indices of the samples the search may see.
        objective: name of an objective of the evaluator; None is its default.
        fit: fit forecast weights in closed loop while running.
        robust: geometric instead of arithmetic mean over samples.
        notify: called with the number of schedules run so far.
        squared: square the errors before their mean: of ``latent-rmse``, that is the MSE.
        max_trials: schedules that :meth:`affordable` lets through at most; None is no limit.
        max_nfe: denoiser evaluations likewise.
    """

    evaluator: Evaluator
    samples: tuple[int, ...]
    objective: str | None
    fit: bool
    robust: bool
    notify: Callable[[int], None] = lambda done: None
    nfe: int = 0
    entries: dict[Hashable, Entry] = field(default_factory=dict)
    squared: bool = False
    max_trials: int | None = None
    max_nfe: int | None = None

    @classmethod
    def of(
        cls, problem: ScheduleProblem, solver: str, objective: str | None, fit: bool, **options: Any
    ) -> TrialBook:
        """Make the book of a solver that searches on all samples of the problem's evaluator.

        Raises:
            OtcacheError: if the problem has no evaluator, or the objective is unknown.
        """
        evaluator = evaluator_of(problem, solver)
        samples = tuple(range(evaluator.num_samples))
        return cls(evaluator, samples, objective_of(evaluator, objective), fit, **options)

    @property
    def tried(self) -> int:
        """Schedules run so far."""
        return len(self.entries)

    def errors(self, schedules: Sequence[Schedule]) -> list[float]:
        """Return the mean errors; schedules not known yet run in one call of the evaluator."""
        fresh = {self._key(s): s for s in schedules if not self.knows(s)}
        if fresh:
            self._run(fresh, self.fit)
        return [self[s].value for s in schedules]

    def begin(self, start: Schedule) -> Entry:
        """Run the schedule that a search starts from, so that the best is never worse than it.

        If a fit would replace its forecast, it runs as it is first, and then fitted.

        Returns:
            The entry of the schedule as it is.

        Raises:
            OtcacheError: if the allowance does not cover one run.
        """
        if not self.affordable([start]):
            wanted = f"at least {self._cost(start):,}"
            advice = f"{len(self.samples)} samples times {start.budget} computed steps is one run."
            raise OtcacheError(expected("max_nfe", self.max_nfe, wanted, advice))
        key: Hashable = self._key(start)
        if self.fit and start != start.without_weights():
            key = start
            self._run({start: start}, fit=False)
        if self.affordable([start]):
            self.errors([start])
        return self.entries[key]

    def adopt(self, schedule: Schedule, value: float) -> None:
        """Enter a schedule that was run elsewhere, unless it is known."""
        self.entries.setdefault(self._key(schedule), Entry(schedule, value))

    def affordable(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """Return the first of the schedules not run yet, as many as the allowance still covers.

        A run is taken to cost its samples times its computed steps: an evaluator may share work
        and spend less, never more.
        """
        trials, nfe = self.tried, self.nfe
        allowed = []
        for schedule in schedules:
            if self.knows(schedule):
                continue
            trials, nfe = trials + 1, nfe + self._cost(schedule)
            if _above(trials, self.max_trials) or _above(nfe, self.max_nfe):
                break
            allowed.append(schedule)
        return allowed

    def solution(
        self, search: str, start: Entry, settled: bool, last: str = "", **stats: Any
    ) -> Solution:
        """Return the best schedule as a solver's solution.

        Args:
            search: name of the search.
            start: the entry that it began with.
            settled: whether it came to its end; else the result is BUDGET_SPENT, with advice.
            last: name of what an allowance ended, if it is a part of the search.
            stats: of the solution, besides ``trials`` and the error of the ``start``.

        Raises:
            OtcacheError: if every run broke.
        """
        best = self.found(search)
        if not settled:
            limits = {"max_trials": self.max_trials, "max_nfe": self.max_nfe}
            stats["advice"] = raise_limits(last or search, **limits)
        result = Result.FOUND if settled else Result.BUDGET_SPENT
        stats = {"trials": self.tried, "start": start.value, **stats}
        return Solution(best.schedule, best.value, result, stats=stats, nfe=self.nfe)

    def held_out(self, schedules: Sequence[Schedule], samples: Sequence[int]) -> list[float]:
        """Return errors of finished schedules, weights as they are, on other samples."""
        ran = self.evaluator.evaluate(schedules, objective=self.objective, samples=samples)
        self.nfe += ran.nfe
        return mean_error(ran.errors, self.robust)

    def knows(self, schedule: Schedule) -> bool:
        """Whether it was run."""
        return self._key(schedule) in self.entries

    def __getitem__(self, schedule: Schedule) -> Entry:
        return self.entries[self._key(schedule)]

    def best(self) -> Entry:
        """Return the entry of least error; of equal ones the first that was run."""
        return min(self.entries.values(), key=lambda entry: entry.value)

    def found(self, search: str) -> Entry:
        """Return the best entry, as the result of the search so named.

        Raises:
            OtcacheError: if every run broke.
        """
        best = self.best()
        if best.value == float("inf"):
            raise OtcacheError(
                f"every schedule of the {search} ended in NaN or infinity: "
                "try float32 or bfloat16, or another objective."
            )
        return best

    def _run(self, schedules: dict[Hashable, Schedule], fit: bool) -> None:
        fresh = list(schedules.values())
        ran = self.evaluator.evaluate(
            fresh, objective=self.objective, samples=self.samples, fit=fit
        )
        self.nfe += ran.nfe
        errors = np.square(ran.errors) if self.squared else ran.errors
        values = mean_error(errors, self.robust)
        for key, schedule, value in zip(schedules, ran.schedules, values, strict=True):
            self.entries[key] = Entry(schedule, value)
        self.notify(self.tried)

    def _cost(self, schedule: Schedule) -> int:
        return len(self.samples) * schedule.budget

    def _key(self, schedule: Schedule) -> Hashable:
        # A fit replaces whatever weights came in, so there the steps alone are the identity.
        return schedule.computed if self.fit else schedule


def raise_limits(what: str, **limits: int | None) -> str:
    """Write advice for ``stats["advice"]``: which limits of the solver are set, and to raise them.

    Args:
        what: what was stopped, such as ``annealing``.
        limits: the solver's own arguments by name, and their values; None is no limit.

    Examples:
        >>> raise_limits("the climb", max_trials=8, max_nfe=None)
        'The climb stopped at a limit. Raise `max_trials` (8).'
    """
    named = [f"`{name}` ({value})" for name, value in limits.items() if value is not None]
    return f"{what[0].upper()}{what[1:]} stopped at a limit. Raise {' or '.join(named)}."


def _above(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit


def mean_error(errors: NDArray[np.float64], robust: bool) -> list[float]:
    """Average over samples (the last axis): geometric if robust; ``inf`` if one is not finite.

    Errors are heavy-tailed over samples; minimising the mean logarithm, whose exponential the
    geometric mean is, keeps one bad sample from steering a search.
    """
    means = np.exp(np.log(np.maximum(errors, FLOOR)).mean(axis=-1)) if robust else errors.mean(-1)
    return [float(x) for x in np.where(np.isfinite(errors).all(axis=-1), means, np.inf)]
