"""Optuna's seeded TPE over a space of schedules."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from otcache_core import Schedule
from otcache_solvers.needs import library
from otcache_solvers.search.search_space import SearchSpace
from otcache_solvers.search.shared_study import SCHEDULE, SharedStudy
from otcache_solvers.search.trial_book import TrialBook

ASKS_PER_TRIAL = 4


def search(
    book: TrialBook,
    space: SearchSpace,
    warm: Sequence[Schedule],
    *,
    trials: int,
    seed: int,
    prune: bool = False,
    shared: SharedStudy | None = None,
) -> None:
    """Run schedules of the space until the book has tried ``trials``.

    Many points stand for one schedule: a duplicate is told to the sampler again but not run again,
    and the search gives up after four suggestions a trial.

    Args:
        book: where schedules are run and kept.
        space: what is searched.
        warm: schedules whose nearest points are tried first, in one call of the evaluator (one by
            one where pruned).
        trials: number of schedules tried at which to stop.
        seed: of the sampler; in a shared study also the number of the first trial taken, so that
            no two processes search alike.
        prune: run each schedule on growing subsets of the samples, and give it up where it is above
            the median of the others.
        shared: keep the study there, and enter in the book what others run.

    Raises:
        OtcacheError: if Optuna is not installed, or the shared study cannot be reached or is of
            something else.
    """
    optuna = library("optuna", "solver 'anchor-search'")
    startup = max(4, trials // 4)

    def sampler(number: int) -> Any:
        return optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=startup)

    settings = {"sampler": sampler(0), "pruner": optuna.pruners.MedianPruner(startup)}
    with quiet("optuna"), nullcontext() if shared is None else shared.reached():
        study = optuna.create_study(**settings) if shared is None else shared.open(**settings)
        if shared is not None:
            shared.learn(study, book)
        points = [space.nearest(schedule) for schedule in warm][: max(trials - book.tried, 0)]
        if shared is None:
            for point in points:
                study.enqueue_trial(point)
        else:
            _add(study, points, space, book)
        batch = 1 if prune or shared else max(1, len(points))
        for turn in range(ASKS_PER_TRIAL * trials):
            if book.tried >= trials:
                return
            asked = [study.ask(_distributions(space)) for _ in range(batch)]
            schedules = [space.schedule(trial.params) for trial in asked]
            if prune:
                book.race(schedules[0], _reporter(asked[0]))
            else:
                book.price(schedules)
            for trial, schedule in zip(asked, schedules, strict=True):
                _tell(study, trial, schedule, book, shared is not None)
            batch = 1
            if shared is not None:
                if turn == 0:
                    study.sampler = sampler(asked[0].number)
                shared.learn(study, book)


def _add(study: Any, points: list[dict[str, float]], space: SearchSpace, book: TrialBook) -> None:
    """Run points that a shared study lacks; one queued there could be taken by two at once."""
    from optuna.trial import create_trial

    known = [trial.params for trial in study.get_trials(deepcopy=False)]
    fresh = [point for point in points if point not in known]
    schedules = [space.schedule(point) for point in fresh]
    for point, schedule, value in zip(fresh, schedules, book.price(schedules), strict=True):
        trial = create_trial(
            params=point,
            distributions=_distributions(space),
            value=value,
            user_attrs={SCHEDULE: book[schedule].schedule.to_dict()},
        )
        study.add_trial(trial)


def _distributions(space: SearchSpace) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        name: IntDistribution(low, int(high))
        if isinstance(low, int)
        else FloatDistribution(low, high)
        for name, (low, high) in space.limits.items()
    }


def _reporter(trial: Any) -> Callable[[int, float], bool]:
    """Reports the error on the first samples; whether the schedule may go on."""

    def goes_on(samples: int, value: float) -> bool:
        trial.report(value, samples)
        return not trial.should_prune()

    return goes_on


def _tell(study: Any, trial: Any, schedule: Schedule, book: TrialBook, keep: bool) -> None:
    from optuna.trial import TrialState

    finished = book.knows(schedule)
    if keep:
        ran = book[schedule].schedule if finished else schedule
        trial.set_user_attr(SCHEDULE, ran.to_dict())
    if finished:
        study.tell(trial, book[schedule].value)
    else:
        study.tell(trial, state=TrialState.PRUNED)


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
