"""Simulated annealing over schedules of one budget, then a climb: BudCache's search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import OtcacheError, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.transport import levels, round_to_steps
from otcache_solvers.needs import PIPELINE, check_least
from otcache_solvers.search.refine import REACH, climb, relocated
from otcache_solvers.search.trial_book import FLOOR, OR_NO_LIMIT, TrialBook

NEARBY = 0.7


@final
@dataclass(frozen=True)
class SimulatedAnnealing(ScheduleSolver):
    r"""Search the computed steps by the error at the end of the run, from hot to cold, then climb.

    A reference implementation: with reuse, and as many evaluations at each budget as a default
    calibration takes for all, its error is above the default policy's at every budget of
    docs/quality.md.

    .. math:: \min_{0 = k_1 < \dots < k_B < N} E(S), \qquad
        E(S) = \operatorname{mean}_n \| x_N^{(n)}(S) - x_N^{(n)} \|^2 / d

    A move relocates one computed step other than step 0 to a step that is not computed: 7 times in
    10 within three steps if one is free there, else anywhere. Iteration i = 0 .. I-1 takes it if it is
    no worse, and otherwise with probability

    .. math:: \exp\big( -(E' - E) / \tau_i \big), \qquad
        \tau_i = \tau_{hot} (\tau_{cold} / \tau_{hot})^{i / I}

    As published, the temperature is *absolute*, in units of E: at the same settings a model with
    smaller latents is searched at a relatively higher temperature. With ``relative`` the exponent
    is -(E' - E) / (E tau), so that 0.05 takes a move that is 5 % worse once in e, whatever the
    scale of E.

    The climb moves single steps by up to three from the best schedule seen, until no move helps. A
    schedule met again is not run again. Different from the authors' program: the start is uniform
    instead of random, once instead of several times; only step 0 is always computed, not the first
    B/4 steps; a move never relocates two steps; the climb makes no random jumps.

    References:
        Budget-Constrained Step-Level Diffusion Caching (BudCache, 2026),
        https://arxiv.org/abs/2606.13496 and https://github.com/Westlake-AGI-Lab/BudCache

    Args:
        iterations: I, moves proposed before the climb; 0 climbs at once.
        temperature: (hot, cold), hot >= cold > 0.
        relative: divide the difference by the present error.
        objective: name of an objective of the evaluator whose mean over samples is E; by default
            the mean squared error of the final latent, from ``latent-rmse``.
        fit: fit the forecast weights of each schedule in closed loop while it runs; the solution
            carries them.
        max_trials: different schedules run at most, the start included; None for no limit.
        max_nfe: denoiser evaluations at most, in samples times computed steps; None for no limit.

    Raises:
        OtcacheError: if a number is out of range.
    """

    iterations: int = 200
    temperature: tuple[float, float] = (0.05, 1e-5)
    relative: bool = False
    objective: str | None = None
    fit: bool = False
    max_trials: int | None = None
    max_nfe: int | None = None

    def __post_init__(self) -> None:
        check_least(self, iterations=0)
        hot, cold = self.temperature
        if not np.inf > hot >= cold > 0:
            wanted = "(hot, cold) with hot >= cold > 0, both finite"
            raise OtcacheError(expected("SimulatedAnnealing.temperature", self.temperature, wanted))
        check_least(self, OR_NO_LIMIT, max_trials=1, max_nfe=1)

    @property
    def abilities(self) -> Abilities:
        """Forecasts are counted if they are fitted in each trial."""
        return Abilities(PIPELINE, forecasts=self.fit)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Search, the same way for the same seed; the objective is E, never above the start's.

        ``stats``: ``trials`` run, E of the ``start`` and of the best schedule ``before_climb``, and
        how many moves were ``taken``. The result is BUDGET_SPENT if an allowance
        ended the search.

        Raises:
            OtcacheError: if the problem has no evaluator, the objective is unknown, ``max_nfe``
                does not cover one run, or every run broke.
        """
        book = TrialBook.of(
            problem,
            "annealing",
            self.objective or "latent-rmse",
            self.fit,
            robust=False,
            squared=self.objective is None,
            max_trials=self.max_trials,
            max_nfe=self.max_nfe,
        )
        n = problem.num_steps
        uniform = Schedule(num_steps=n, computed=round_to_steps(levels(problem.budget), n))
        start = book.begin(uniform)
        taken, cooled = self._anneal(book, np.random.default_rng(problem.seed))
        before_climb = book.best().value
        settled = climb(book, seed=problem.seed) and cooled
        return book.solution("annealing", start, settled, before_climb=before_climb, taken=taken)

    def _anneal(self, book: TrialBook, rng: np.random.Generator) -> tuple[int, bool]:
        """Count the moves taken, and say whether no allowance ended it early."""
        now = book.best()
        hot, cold = self.temperature
        taken = 0
        if now.schedule.budget in (1, now.schedule.num_steps):
            return taken, True
        for i in range(self.iterations):
            move = _proposed(now.schedule, rng)
            if not book.knows(move) and not book.affordable([move]):
                return taken, False
            [value] = book.errors([move])
            temperature = hot * (cold / hot) ** (i / self.iterations)
            if self._takes(now.value, value, temperature, rng):
                now, taken = book[move], taken + 1
        return taken, True

    def _takes(self, now: float, then: float, temperature: float, rng: np.random.Generator) -> bool:
        if then <= now:
            return True
        unit = max(now, FLOOR) if self.relative else 1.0
        return bool(rng.random() < np.exp(-(then - now) / (unit * temperature)))


def _proposed(schedule: Schedule, rng: np.random.Generator) -> Schedule:
    """Relocate one computed step; the budget is neither 1 nor N."""
    free = sorted(set(range(schedule.num_steps)) - set(schedule.computed))
    here = int(rng.choice(schedule.computed[1:]))
    nearby = [k for k in free if abs(k - here) <= REACH]
    near = rng.random() < NEARBY and nearby
    return relocated(schedule, here, int(rng.choice(nearby if near else free)))
