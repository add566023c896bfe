"""Optuna's seeded TPE over the parameters of a warp."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from otcache_core import Schedule
from otcache_solvers.kumaraswamy import LIMITS, Kumaraswamy
from otcache_solvers.trial_book import TrialBook

ASKS_PER_TRIAL = 4


def search_warps(
    book: TrialBook,
    shape: Callable[[Kumaraswamy], Schedule],
    warm: Sequence[Kumaraswamy],
    *,
    trials: int,
    names: Sequence[str],
    seed: int,
) -> None:
    """Run warps until the book holds ``trials`` schedules.

    Many warps round to one schedule: a duplicate is told to the sampler again but not run again,
    and the search gives up after four suggestions a trial.

    Args:
        book: where schedules are run and kept.
        shape: makes the schedule of a warp.
        warm: warps tried first, in one call of the evaluator.
        trials: number of schedules in the book at which to stop.
        names: parameters of the warp that vary, keys of ``LIMITS``; the others stay at their
            default.
        seed: of the sampler.
    """
    import optuna

    interval = optuna.distributions.FloatDistribution
    space: dict[str, Any] = {name: interval(*LIMITS[name]) for name in names}
    left = trials - len(book.entries)
    with quiet("optuna"):
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, trials // 4))
        study = optuna.create_study(sampler=sampler)
        for warp in warm[: max(left, 0)]:
            study.enqueue_trial({name: getattr(warp, name) for name in names})
        batch = len(warm[: max(left, 0)])
        for _ in range(ASKS_PER_TRIAL * trials):
            if len(book.entries) >= trials:
                return
            asked = [study.ask(space) for _ in range(batch or 1)]
            values = book.price([shape(Kumaraswamy(**trial.params)) for trial in asked])
            for trial, value in zip(asked, values, strict=True):
                study.tell(trial, value)
            batch = 1


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep a library's own log handlers silent below WARNING, on this thread only.

    Its level and the other threads' records are not touched.
    """
    thread = threading.get_ident()

    def loud(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or threading.get_ident() != thread

    handlers = list(logging.getLogger(library).handlers)
    for handler in handlers:
        handler.addFilter(loud)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(loud)
