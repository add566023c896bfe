"""Stage 2: search the schedule of an extreme budget by its end-to-end error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Evaluator, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.warp import levels, quantile_function, round_to_steps
from otcache_solvers.climb import climb
from otcache_solvers.kumaraswamy import Kumaraswamy
from otcache_solvers.needs import evaluator_of, objective_of
from otcache_solvers.trial_book import Entry, TrialBook
from otcache_solvers.warp_search import search_warps


@final
@dataclass(frozen=True)
class AnchorSearch(ScheduleSolver):
    r"""Minimise the true error of the accelerated run over few parameters of a warp, then climb.

    .. math:: \min_{a, b} \exp E_{samples} \log e\big( S_{a,b} \big), \qquad
              S_{a,b} = \operatorname{round} Q_{a,b}\big(\tfrac{m-1}{B}\big)

    with e the evaluator's error and Q a :class:`~otcache_solvers.kumaraswamy.Kumaraswamy` warp. In
    order: the warm starts as they are (uniform, the reference's warp read at B levels, ``warm``),
    the warps nearest to them, Optuna's TPE, then moves of single steps. No schedule is run twice.
    Errors are heavy-tailed over samples and a climb overfits, hence the geometric mean and the
    split: the winner must also beat the best warm start on samples the search never saw, else that
    is returned.

    References:
        OTCache (2026), https://arxiv.org/abs/2606.31026 (its abstract; the form is the project's);
        Optuna: A Next-generation Hyperparameter Optimization Framework (2019),
        https://arxiv.org/abs/1907.10902

    Args:
        max_trials: schedules run before the climb, warm starts included; at least 1.
        climb_trials: schedules run in the climb; 0 for none.
        warm: further schedules to start from, of the problem's N and budget.
        objective: name of an objective of the evaluator; its default if None.
        fit: fit the forecast weights of each schedule in closed loop while it runs; the solution
            carries them.
        robust: geometric mean over samples; else the arithmetic one.
        split: fraction of the samples kept out of the search (the last ones), in [0, 1). Rounded
            down, so that fewer than four samples are all searched on by default.
        bump: also search a local deformation of the warp.
        progress: called with (schedules run, at most).

    Raises:
        OtcacheError: if a number is out of range.
    """

    max_trials: int = 24
    climb_trials: int = 16
    warm: Sequence[Schedule] = ()
    objective: str | None = None
    fit: bool = True
    robust: bool = True
    split: float = 0.25
    bump: bool = False
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.max_trials < 1:
            raise OtcacheError(expected("AnchorSearch.max_trials", self.max_trials, "at least 1"))
        if self.climb_trials < 0:
            raise OtcacheError(
                expected("AnchorSearch.climb_trials", self.climb_trials, "at least 0")
            )
        if not 0 <= self.split < 1:
            raise OtcacheError(expected("AnchorSearch.split", self.split, "at least 0 and below 1"))

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Search, the same way for the same seed; the objective is the mean error searched on.

        Raises:
            OtcacheError: if the problem has no evaluator, a warm start does not fit the problem,
                the objective is unknown, or every run broke.
        """
        evaluator = evaluator_of(problem, "anchor-search")
        searched, kept = self._samples(evaluator)
        objective = objective_of(evaluator, self.objective)
        book = TrialBook(evaluator, searched, objective, self.fit, self.robust, self._notify)
        warm = self._warm_starts(problem)
        starts = dict(zip(warm, book.price(list(warm.values())[: self.max_trials]), strict=False))
        start = book.best()
        self._search(book, problem, list(warm.values()))
        settled = climb(book, trials=self.climb_trials, seed=problem.seed)
        chosen, verdict = self._accept(book, start, kept)
        if self.progress is not None:
            self.progress(self._most, self._most)
        return Solution(
            chosen.schedule,
            chosen.value,
            Result.FOUND if settled else Result.BUDGET_SPENT,
            stats={"nfe": book.nfe, "trials": len(book.entries), "warm": starts, **verdict},
        )

    def _samples(self, evaluator: Evaluator) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Indices to search on, and those kept out."""
        n = evaluator.num_samples
        kept = min(int(self.split * n), n - 1)
        return tuple(range(n - kept)), tuple(range(n - kept, n))

    def _warm_starts(self, problem: ScheduleProblem) -> dict[str, Schedule]:
        """Named schedules to begin with; of equal ones only the first."""
        n, budget = problem.num_steps, problem.budget
        starts = {"uniform": Kumaraswamy().schedule(n, budget)}
        if problem.reference is not None:
            q = quantile_function(problem.reference)(levels(budget))
            starts["reference warp"] = Schedule(num_steps=n, computed=round_to_steps(q, n))
        for index, schedule in enumerate(self.warm):
            if (schedule.num_steps, schedule.budget) != (n, budget):
                got = f"{schedule.budget} of {schedule.num_steps}"
                raise OtcacheError(expected(f"warm[{index}]", got, f"{budget} of {n} steps"))
            starts[f"warm {index}"] = _plain(schedule) if self.fit else schedule
        unique: dict[str, Schedule] = {}
        for name, schedule in starts.items():
            if schedule not in unique.values():
                unique[name] = schedule
        return unique

    def _search(self, book: TrialBook, problem: ScheduleProblem, warm: Sequence[Schedule]) -> None:
        search_warps(
            book,
            lambda warp: warp.schedule(problem.num_steps, problem.budget),
            [Kumaraswamy.nearest(schedule) for schedule in warm],
            trials=self.max_trials,
            names=("log_a", "log_b", "bump", "centre") if self.bump else ("log_a", "log_b"),
            seed=problem.seed,
        )

    def _accept(
        self, book: TrialBook, start: Entry, kept: tuple[int, ...]
    ) -> tuple[Entry, dict[str, Any]]:
        """The best schedule, or the best warm start if that does better on the samples kept out."""
        best = book.found("anchor search")
        if not kept or best is start:
            return best, {"accepted": best is not start}
        found, before = book.compare([best.schedule, start.schedule], kept)
        accepted = found < before
        verdict = {"accepted": accepted, "kept_out": {"found": found, "warm": before}}
        return best if accepted else start, verdict

    @property
    def _most(self) -> int:
        return self.max_trials + self.climb_trials

    def _notify(self, done: int) -> None:
        if self.progress is not None:
            self.progress(min(done, self._most), self._most)


def _plain(schedule: Schedule) -> Schedule:
    """Without the weights, which the fit will replace."""
    if not schedule.weights:
        return schedule
    return Schedule(
        num_steps=schedule.num_steps, computed=schedule.computed, branches=schedule.branches
    )
