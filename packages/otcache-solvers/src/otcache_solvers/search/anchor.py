"""Stage 2: search the schedule of an extreme budget by its end-to-end error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.transport import levels, quantile_function, round_to_steps
from otcache_solvers.needs import PIPELINE, check_least, evaluator_of, objective_of
from otcache_solvers.search.refine import climb
from otcache_solvers.search.tpe_search import Kumaraswamy, SharedStudy, search
from otcache_solvers.search.trial_book import Entry, TrialBook, raise_limits

#: Part of the samples kept out of the search.
SPLIT = 0.25


@final
@dataclass(frozen=True)
class AnchorSearch(ScheduleSolver):
    r"""Minimise the true error of the accelerated run over the parameters of a warp, then climb.

    .. math:: \min_{a, b} \exp E_{samples} \log e\big( S_{a,b} \big), \qquad
              S_{a,b} = \operatorname{round} Q_{a,b}\big(\tfrac{m-1}{B}\big)

    with e the evaluator's error and Q a :class:`~otcache_solvers.search.tpe_search.Kumaraswamy`
    warp. In order: the warm starts as they are (uniform, the reference's warp read at B levels,
    ``warm``), the points nearest to them, Optuna's TPE, then moves of single steps. No schedule is
    run twice.
    Errors are heavy-tailed over samples and a climb overfits, hence the geometric mean, and a
    quarter of the samples (the last ones; rounded down, so none of three) is kept out of the search:
    the winner must also beat the best warm start on those, else that is returned.

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
        progress: called with (schedules run, at most).
        storage: URL of what :func:`otcache_solvers.search.tpe_search.storage_at` takes, a database
            (``sqlite:///search.db``), a journal file or a gRPC server, that keeps Optuna's
            trials: several processes may search together until they have ``max_trials`` between
            them, and an interrupted search continues. The warm starts and the climb are each
            process's own, as is ``nfe``. All processes must run the same model.
        study: name in the storage; ``anchor-search`` by default.

    Raises:
        OtcacheError: if a number is out of range, or a study is named without a storage.
    """

    max_trials: int = 24
    climb_trials: int = 16
    warm: Sequence[Schedule] = ()
    objective: str | None = None
    fit: bool = True
    progress: Callable[[int, int], None] | None = None
    storage: str | None = None
    study: str | None = None

    def __post_init__(self) -> None:
        check_least(self, max_trials=1, climb_trials=0)
        if self.study is not None and self.storage is None:
            advice = "it names a study in a storage. Pass storage=..."
            raise OtcacheError(expected("AnchorSearch.study", self.study, "omitted here", advice))

    @property
    def abilities(self) -> Abilities:
        """Forecasts are counted if they are fitted in each trial."""
        return Abilities(PIPELINE, forecasts=self.fit)

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Search, the same way for the same seed; the objective is the mean error searched on.

        Raises:
            OtcacheError: if the problem has no evaluator, a warm start does not fit the problem,
                the objective is unknown, every run broke, the storage cannot be reached, or its
                study was begun for another N, budget, objective, fit or number of samples.
        """
        evaluator = evaluator_of(problem, "anchor-search")
        n = evaluator.num_samples
        kept = min(int(SPLIT * n), n - 1)
        objective = objective_of(evaluator, self.objective)
        book = TrialBook(
            evaluator, tuple(range(n - kept)), objective, self.fit, robust=True, notify=self._notify
        )
        warm = self._warm_starts(problem)
        starts = dict(zip(warm, book.errors(list(warm.values())[: self.max_trials]), strict=False))
        start = book.best()
        search(
            book,
            list(warm.values()),
            trials=self.max_trials,
            seed=problem.seed,
            shared=self._shared(problem, book),
        )
        settled = climb(book, trials=self.climb_trials, seed=problem.seed)
        chosen, verdict = _accepted(book, start, range(n - kept, n))
        self._notify(self._most)
        if not settled:
            verdict["advice"] = raise_limits("the climb", climb_trials=self.climb_trials)
        return Solution(
            chosen.schedule,
            chosen.value,
            Result.FOUND if settled else Result.BUDGET_SPENT,
            stats={"trials": book.tried, "warm": starts, **verdict},
            nfe=book.nfe,
        )

    def _warm_starts(self, problem: ScheduleProblem) -> dict[str, Schedule]:
        """Return named schedules to begin with; of equal ones only the first."""
        n, budget = problem.num_steps, problem.budget
        starts = {"uniform": Kumaraswamy().schedule(n, budget)}
        if problem.reference is not None:
            q = quantile_function(problem.reference)(levels(budget))
            starts["reference warp"] = Schedule(num_steps=n, computed=round_to_steps(q, n))
        for index, schedule in enumerate(self.warm):
            if (schedule.num_steps, schedule.budget) != (n, budget):
                got = f"{schedule.budget} of {schedule.num_steps}"
                raise OtcacheError(expected(f"warm[{index}]", got, f"{budget} of {n} steps"))
            plain = self.fit and schedule.weights  # which the fit replaces
            starts[f"warm {index}"] = schedule.without_weights() if plain else schedule
        unique: dict[str, Schedule] = {}
        for name, schedule in starts.items():
            if schedule not in unique.values():
                unique[name] = schedule
        return unique

    def _shared(self, problem: ScheduleProblem, book: TrialBook) -> SharedStudy | None:
        if self.storage is None:
            return None
        identity = {
            "num_steps": problem.num_steps,
            "budget": problem.budget,
            "objective": book.objective or book.evaluator.objectives[0],
            "fit": self.fit,
            "samples": len(book.samples),
        }
        return SharedStudy(self.storage, self.study or "anchor-search", identity)

    @property
    def _most(self) -> int:
        return self.max_trials + self.climb_trials

    def _notify(self, done: int) -> None:
        if self.progress is not None:
            self.progress(min(done, self._most), self._most)


def _accepted(book: TrialBook, start: Entry, kept: range) -> tuple[Entry, dict[str, Any]]:
    """Return the best schedule, or the best warm start if that is better on the samples kept out."""
    best = book.found("anchor search")
    if not kept or best is start:
        return best, {"accepted": best is not start}
    found, before = book.held_out([best.schedule, start.schedule], kept)
    accepted = found < before
    verdict = {"accepted": accepted, "kept_out": {"found": found, "warm": before}}
    return best if accepted else start, verdict
