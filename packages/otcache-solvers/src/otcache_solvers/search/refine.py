"""Improve a schedule by moves of single steps, judged by the error at the end of the run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.transport import levels, quantile_function, round_to_steps
from otcache_solvers.needs import PIPELINE, check_least
from otcache_solvers.search.trial_book import OR_NO_LIMIT, TrialBook


@final
@dataclass(frozen=True)
class Refine(ScheduleSolver):
    r"""Hill climbing on the true error, from the problem's reference.

    A reference implementation: from the default policy's schedules a climb of such moves gained
    nothing beyond doubt (docs/ideas.md). :class:`~otcache_solvers.search.anchor.AnchorSearch` ends
    with the same climb.

    .. math:: S \leftarrow \operatorname*{arg\,min}_{S' \in \{S\} \cup V_m(S)} \bar e(S'), \qquad
        \bar e(S) = \exp \operatorname{mean}_n \log e_n(S)

    V_m(S) moves the m-th computed step by 1 .. 3 either way, between its neighbours. The steps
    m = 2 .. B take turns in a seeded order until none has a better place. A schedule is only taken
    if the geometric mean of its errors is lower, so one bad sample does not steer; no schedule is
    run twice.

    The samples searched on are all the evaluator's. A climb overfits few samples: keep some aside
    to judge the result, or let the evaluator cross-validate.

    References:
        docs/theory.md, section 8.2. The search alone is the second stage of Budget-Constrained
        Step-Level Diffusion Caching (2026), https://arxiv.org/abs/2606.13496

    Args:
        objective: name of the evaluator's objective e; its default if None.
        fit: fit the forecast weights of each schedule in closed loop while it runs; the solution
            carries them. A reference with a forecast of its own also runs as it is.
        max_trials: schedules run at most, the start included; None for no limit.
        max_nfe: denoiser evaluations at most, in samples times computed steps; None for no limit.

    Raises:
        OtcacheError: if a number is out of range.
    """

    objective: str | None = None
    fit: bool = True
    max_trials: int | None = None
    max_nfe: int | None = None

    def __post_init__(self) -> None:
        check_least(self, OR_NO_LIMIT, max_trials=1, max_nfe=1)

    @property
    def abilities(self) -> Abilities:
        """Forecasts are counted if they are fitted in each trial."""
        return Abilities(PIPELINE, forecasts=self.fit)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Climb, the same way for the same seed; the objective is never above the start's.

        The start is the problem's reference; if that has another budget, its warp read at B
        levels; if there is none, the uniform schedule. ``stats``: ``trials`` run, the
        error of the ``start``, and whether another schedule was ``accepted``. The result is
        BUDGET_SPENT if an allowance ended the climb.

        Raises:
            OtcacheError: if the problem has no evaluator, the objective is unknown, ``max_nfe``
                does not cover one run, or every run broke.
        """
        book = TrialBook.of(
            problem,
            "refine",
            self.objective,
            self.fit,
            robust=True,
            max_trials=self.max_trials,
            max_nfe=self.max_nfe,
        )
        start = book.begin(_start(problem))
        settled = climb(book, seed=problem.seed)
        accepted = book.best() is not start
        return book.solution("refinement", start, settled, "the climb", accepted=accepted)


def _start(problem: ScheduleProblem) -> Schedule:
    n, budget, reference = problem.num_steps, problem.budget, problem.reference
    if reference is not None and reference.budget == budget:
        return reference
    u = levels(budget)
    q = u if reference is None else quantile_function(reference)(u)
    return Schedule(num_steps=n, computed=round_to_steps(q, n))


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
