"""Optuna's seeded TPE over the two parameters of a warp."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from otcache_core import Schedule
from otcache_solvers.needs import library
from otcache_solvers.search.kumaraswamy import LIMITS, Kumaraswamy
from otcache_solvers.search.shared_study import SCHEDULE, SharedStudy
from otcache_solvers.search.trial_book import TrialBook

ASKS_PER_TRIAL = 4


def search(
    book: TrialBook,
    warm: Sequence[Schedule],
    *,
    trials: int,
    seed: int,
    shared: SharedStudy | None = None,
) -> None:
    """Run schedules of the warp family until the book has tried ``trials``.

    Many points give the same schedule: a duplicate is reported to the sampler again but not run
    again, and the search gives up after four suggestions a trial.

    Args:
        book: where schedules are run and kept.
        warm: schedules of one N and budget, whose nearest points are tried first, in one call of
            the evaluator.
        trials: number of schedules tried at which to stop.
        seed: of the sampler; in a shared study also the number of the first trial taken, so that
            no two processes search alike.
        shared: keep the study there, and enter in the book what others run.

    Raises:
        OtcacheError: if Optuna is not installed, or the shared study cannot be reached or is of
            something else.
    """
    optuna = library("optuna", "solver 'anchor-search'")
    n, budget = warm[0].num_steps, warm[0].budget

    def sampler(number: int) -> Any:
        startup = max(4, trials // 4)
        return optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=startup)

    first = sampler(0)
    with quiet("optuna"), nullcontext() if shared is None else shared.reached():
        study = optuna.create_study(sampler=first) if shared is None else shared.open(first)
        if shared is not None:
            shared.learn(study, book)
        points = [asdict(Kumaraswamy.nearest(schedule)) for schedule in warm]
        points = points[: max(trials - book.tried, 0)]
        if shared is None:
            for point in points:
                study.enqueue_trial(point)
        else:
            _add(study, points, n, budget, book)
        batch = 1 if shared else max(1, len(points))
        for turn in range(ASKS_PER_TRIAL * trials):
            if book.tried >= trials:
                return
            asked = [study.ask(_distributions()) for _ in range(batch)]
            schedules = [Kumaraswamy(**trial.params).schedule(n, budget) for trial in asked]
            values = book.errors(schedules)
            for trial, schedule, value in zip(asked, schedules, values, strict=True):
                if shared is not None:
                    trial.set_user_attr(SCHEDULE, book[schedule].schedule.to_dict())
                study.tell(trial, value)
            batch = 1
            if shared is not None:
                if turn == 0:
                    study.sampler = sampler(asked[0].number)
                shared.learn(study, book)


def _add(study: Any, points: list[dict[str, float]], n: int, budget: int, book: TrialBook) -> None:
    """Run points that a shared study lacks; one queued there could be taken by two at once."""
    from optuna.trial import create_trial

    known = [trial.params for trial in study.get_trials(deepcopy=False)]
    fresh = [point for point in points if point not in known]
    schedules = [Kumaraswamy(**point).schedule(n, budget) for point in fresh]
    for point, schedule, value in zip(fresh, schedules, book.errors(schedules), strict=True):
        trial = create_trial(
            params=point,
            distributions=_distributions(),
            value=value,
            user_attrs={SCHEDULE: book[schedule].schedule.to_dict()},
        )
        study.add_trial(trial)


def _distributions() -> dict[str, Any]:
    from optuna.distributions import FloatDistribution

    return {name: FloatDistribution(*LIMITS) for name in ("log_a", "log_b")}


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
