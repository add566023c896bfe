"""The record of a search: every schedule is run once and every evaluation counted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.contracts import Evaluation, Evaluator
from otcache_core.errors import expected
from otcache_solvers.search.limits import raise_limits

FLOOR = 1e-12


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
        given_up: schedules that a :meth:`race` ended early: number of samples, error on them.
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
    given_up: dict[Hashable, tuple[int, float]] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        """Schedules run so far, to the end or not."""
        return len(self.entries) + len(self.given_up)

    def price(self, schedules: Sequence[Schedule]) -> list[float]:
        """Errors of the schedules; those not known yet run in one call of the evaluator."""
        fresh = {self._key(s): s for s in schedules if not self.knows(s)}
        if fresh:
            self._run(fresh, self.fit)
        return [self[s].value for s in schedules]

    def begin(self, start: Schedule) -> Entry:
        """Run the schedule that a search starts from, so that the best is never worse than it.

        Where a fit would replace its forecast, it runs as it is first, and then fitted.

        Returns:
            The entry of the schedule as it is.

        Raises:
            OtcacheError: if the allowance does not cover one run.
        """
        if not self.affordable([start]):
            wanted = f"at least {self._price(start):,}"
            advice = f"{len(self.samples)} samples times {start.budget} computed steps is one run."
            raise OtcacheError(expected("max_nfe", self.max_nfe, wanted, advice))
        key: Hashable = self._key(start)
        if self.fit and start != start.without_weights():
            key = start
            self._run({start: start}, fit=False)
        if self.affordable([start]):
            self.price([start])
        return self.entries[key]

    def race(self, schedule: Schedule, goes_on: Callable[[int, float], bool]) -> None:
        """Run a schedule on growing subsets of the samples for as long as it is worth it.

        A quarter, half and all of them, of which each sample runs once; a quarter and all with a
        fit, which needs its samples together. A schedule met again is not run again.

        Args:
            schedule: ends in the entries, or among those given up.
            goes_on: called with the number of samples and the mean error on them; after the last
                subset its answer does not matter.
        """
        key = self._key(schedule)
        if key in self.entries:
            return
        if key in self.given_up:
            goes_on(*self.given_up[key])
            return
        errors = np.empty((1, 0))
        for count in self._subsets():
            part = self.samples[:count] if self.fit else self.samples[errors.shape[1] : count]
            ran = self._evaluate([schedule], part, self.fit)
            errors = ran.errors if self.fit else np.hstack([errors, ran.errors])
            [value] = self._means(errors)
            if not goes_on(count, value) and count < len(self.samples):
                self.given_up[key] = count, value
                break
        else:
            self.entries[key] = Entry(ran.schedules[0], value)
        self.notify(self.tried)

    def adopt(self, schedule: Schedule, value: float) -> None:
        """Enter a schedule that was run elsewhere, unless it is known."""
        self.entries.setdefault(self._key(schedule), Entry(schedule, value))

    def abandon(self, schedule: Schedule, samples: int, value: float) -> None:
        """Enter a schedule that was given up elsewhere, unless it is known."""
        if not self.knows(schedule):
            self.given_up.setdefault(self._key(schedule), (samples, value))

    def affordable(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """Of the schedules that were not run, the first ones that the allowance still covers.

        A run is taken to cost its samples times its computed steps: an evaluator may share work
        and spend less, never more.
        """
        trials, nfe = self.tried, self.nfe
        allowed = []
        for schedule in schedules:
            if self.knows(schedule):
                continue
            trials, nfe = trials + 1, nfe + self._price(schedule)
            if _above(trials, self.max_trials) or _above(nfe, self.max_nfe):
                break
            allowed.append(schedule)
        return allowed

    def advice(self, search: str, settled: bool) -> dict[str, str]:
        """What to raise, for a solution's stats; nothing where no allowance ended the search."""
        if settled:
            return {}
        return {"advice": raise_limits(search, max_trials=self.max_trials, max_nfe=self.max_nfe)}

    def compare(self, schedules: Sequence[Schedule], samples: Sequence[int]) -> list[float]:
        """Errors of finished schedules, weights as they are, on other samples."""
        ran = self.evaluator.evaluate(schedules, objective=self.objective, samples=samples)
        self.nfe += ran.nfe
        return [float(value) for value in mean_error(ran.errors, self.robust)]

    def knows(self, schedule: Schedule) -> bool:
        """Whether it was run."""
        return self._key(schedule) in self.entries

    def __getitem__(self, schedule: Schedule) -> Entry:
        return self.entries[self._key(schedule)]

    def best(self) -> Entry:
        """The entry of least error; of equal ones the first that was run."""
        return min(self.entries.values(), key=lambda entry: entry.value)

    def found(self, search: str) -> Entry:
        """The best entry, as the result of the search so named.

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
        ran = self._evaluate(list(schedules.values()), self.samples, fit)
        values = self._means(ran.errors)
        for key, schedule, value in zip(schedules, ran.schedules, values, strict=True):
            self.entries[key] = Entry(schedule, value)
        self.notify(self.tried)

    def _evaluate(
        self, schedules: Sequence[Schedule], samples: Sequence[int], fit: bool
    ) -> Evaluation:
        ran = self.evaluator.evaluate(schedules, objective=self.objective, samples=samples, fit=fit)
        self.nfe += ran.nfe
        return ran

    def _means(self, errors: NDArray[np.float64]) -> list[float]:
        values = mean_error(np.square(errors) if self.squared else errors, self.robust)
        return [float(value) for value in values]

    def _subsets(self) -> list[int]:
        n = len(self.samples)
        return sorted({-(-n // 4), n} if self.fit else {-(-n // 4), -(-n // 2), n})

    def _price(self, schedule: Schedule) -> int:
        return len(self.samples) * schedule.budget

    def _key(self, schedule: Schedule) -> Hashable:
        # A fit replaces whatever weights came in, so there the steps alone are the identity.
        return schedule.computed if self.fit else schedule


def check_allowance(solver: str, max_trials: int | None, max_nfe: int | None) -> None:
    """Raise OtcacheError unless each is None or at least 1."""
    for name, value in (("max_trials", max_trials), ("max_nfe", max_nfe)):
        if value is not None and value < 1:
            wanted = "at least 1, or None for no limit"
            raise OtcacheError(expected(f"{solver}.{name}", value, wanted))


def _above(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit


def mean_error(errors: NDArray[np.float64], robust: bool) -> NDArray[np.float64]:
    """Mean over samples (the last axis): geometric if robust; ``inf`` where an error is not finite.

    Errors are heavy-tailed over samples; minimising the mean logarithm, whose exponential the
    geometric mean is, keeps one bad sample from steering a search.
    """
    means = np.exp(np.log(np.maximum(errors, FLOOR)).mean(axis=-1)) if robust else errors.mean(-1)
    return np.asarray(np.where(np.isfinite(errors).all(axis=-1), means, np.inf))
