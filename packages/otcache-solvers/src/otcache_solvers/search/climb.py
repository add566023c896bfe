"""Hill climbing on single computed steps."""

from __future__ import annotations

import sys

import numpy as np

from otcache_core import Schedule
from otcache_solvers.search.trial_book import TrialBook

#: Steps that a move may span.
REACH = 3


def climb(
    book: TrialBook,
    *,
    seed: int,
    trials: int | None = None,
) -> bool:
    """Move one computed step of the best schedule by up to ``REACH``, as long as that helps.

    The moves of one step run in one call, since they share their other steps; steps take turns in a
    seeded order.

    Args:
        book: holds at least one schedule; the best one is the start.
        seed: of the order.
        trials: number of schedules that may be run at most, beside the book's own allowance.

    Returns:
        Whether the best schedule has no better neighbour (False: stopped by ``trials`` or by the
        book's allowance).
    """
    budget = book.best().schedule.budget
    turns = np.random.default_rng(seed).permutation(np.arange(1, budget)).tolist()
    limit = sys.maxsize if trials is None else book.tried + trials
    idle = turn = 0
    while idle < len(turns):
        best = book.best()
        place = turns[turn % len(turns)]
        moves = [move for move in moved(best.schedule, place) if not book.knows(move)]
        allowed = book.affordable(moves)[: limit - book.tried]
        if allowed:
            book.errors(allowed)
        if len(moves) > len(allowed):
            return False
        idle = 0 if book.best().value < best.value else idle + 1
        turn += 1
    return True


def moved(schedule: Schedule, place: int) -> list[Schedule]:
    """Move computed step number ``place`` by 1 .. REACH either way, between its neighbours."""
    steps = schedule.computed
    low = steps[place - 1] + 1
    high = steps[place + 1] if place + 1 < len(steps) else schedule.num_steps
    here = steps[place]
    nearby = range(max(low, here - REACH), min(high, here + REACH + 1))
    return [
        relocated(schedule, here, k)
        for k in sorted(nearby, key=lambda k: (abs(k - here), k))
        if k != here
    ]


def relocated(schedule: Schedule, here: int, there: int) -> Schedule:
    """Return the schedule that computes step ``there`` instead of ``here``.

    Weights are dropped: they were fitted to other spans.
    """
    return Schedule(
        num_steps=schedule.num_steps,
        computed=tuple(sorted({*schedule.computed, there} - {here})),
        forecaster="reuse" if schedule.weights else schedule.forecaster,
    )
