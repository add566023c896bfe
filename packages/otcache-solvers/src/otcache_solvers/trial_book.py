"""The record of a search: every schedule is run once and every evaluation counted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from otcache_core import Schedule
from otcache_core.contracts import Evaluator

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
    """

    evaluator: Evaluator
    samples: tuple[int, ...]
    objective: str | None
    fit: bool
    robust: bool
    notify: Callable[[int], None] = lambda done: None
    nfe: int = 0
    entries: dict[Hashable, Entry] = field(default_factory=dict)

    def price(self, schedules: Sequence[Schedule]) -> list[float]:
        """Errors of the schedules; those not known yet run in one call of the evaluator."""
        fresh = {self._key(s): s for s in schedules if not self.knows(s)}
        if fresh:
            ran = self.evaluator.evaluate(
                list(fresh.values()), objective=self.objective, samples=self.samples, fit=self.fit
            )
            self.nfe += ran.nfe
            values = mean_error(ran.errors, self.robust)
            for key, schedule, value in zip(fresh, ran.schedules, values.tolist(), strict=True):
                self.entries[key] = Entry(schedule, value)
            self.notify(len(self.entries))
        return [self[s].value for s in schedules]

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

    def _key(self, schedule: Schedule) -> Hashable:
        # A fit replaces whatever weights came in, so there the steps alone are the identity.
        return schedule.computed if self.fit else schedule


def mean_error(errors: NDArray[np.float64], robust: bool) -> NDArray[np.float64]:
    """Mean over samples (the last axis): geometric if robust; ``inf`` where an error is not finite.

    Errors are heavy-tailed over samples; minimising the mean logarithm, whose exponential the
    geometric mean is, keeps one bad sample from steering a search.
    """
    means = np.exp(np.log(np.maximum(errors, FLOOR)).mean(axis=-1)) if robust else errors.mean(-1)
    return np.asarray(np.where(np.isfinite(errors).all(axis=-1), means, np.inf))
