"""Hill climbing on single computed steps."""

from __future__ import annotations

import numpy as np

from otcache_core import Schedule
from otcache_solvers.trial_book import TrialBook

REACH = 3


def climb(book: TrialBook, *, trials: int, seed: int) -> bool:
    """Move one computed step of the best schedule by up to three, as long as that helps.

    The moves of one step run in one call, since they share their other steps; steps take turns in a
    seeded order.

    Args:
        book: holds at least one schedule; the best one is the start.
        trials: number of schedules that may be run at most.
        seed: of the order.

    Returns:
        Whether the best schedule has no better neighbour (False: stopped by ``trials``).
    """
    budget = book.best().schedule.budget
    turns = np.random.default_rng(seed).permutation(np.arange(1, budget)).tolist()
    limit = len(book.entries) + trials
    idle = turn = 0
    while idle < len(turns):
        best = book.best()
        moves = [s for s in moved(best.schedule, turns[turn % len(turns)]) if not book.knows(s)]
        left = limit - len(book.entries)
        if moves[:left]:
            book.price(moves[:left])
        if len(moves) > left:
            return False
        idle = 0 if book.best().value < best.value else idle + 1
        turn += 1
    return True


def moved(schedule: Schedule, place: int) -> list[Schedule]:
    """The schedule with its computed step number ``place`` moved by 1..3 either way, where it fits.

    Weights are dropped: they were fitted to other spans.
    """
    steps = schedule.computed
    low = steps[place - 1] + 1
    high = steps[place + 1] if place + 1 < len(steps) else schedule.num_steps
    here = steps[place]
    nearby = range(max(low, here - REACH), min(high, here + REACH + 1))
    forecaster = "reuse" if schedule.weights else schedule.forecaster
    return [
        Schedule(
            num_steps=schedule.num_steps,
            computed=(*steps[:place], k, *steps[place + 1 :]),
            forecaster=forecaster,
        )
        for k in sorted(nearby, key=lambda k: (abs(k - here), k))
        if k != here
    ]
