"""Stage 2: search the schedule of an extreme budget by its end-to-end error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from otcache_core import OtcacheError, Result, Schedule, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, Evaluator, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.forecasters.strength import StrengthCurve
from otcache_core.warp import levels, quantile_function, round_to_steps
from otcache_solvers.needs import PIPELINE, evaluator_of, objective_of
from otcache_solvers.search.climb import climb
from otcache_solvers.search.kumaraswamy import Kumaraswamy
from otcache_solvers.search.limits import raise_limits
from otcache_solvers.search.search_space import GapSpace, IntegerSpace, SearchSpace, WarpSpace
from otcache_solvers.search.shared_study import SharedStudy
from otcache_solvers.search.strength_space import StrengthSpace
from otcache_solvers.search.tpe_search import search
from otcache_solvers.search.trial_book import Entry, TrialBook

SPACES: dict[str, type[WarpSpace] | type[GapSpace] | type[IntegerSpace]] = {
    "warp": WarpSpace,
    "gaps": GapSpace,
    "integers": IntegerSpace,
}


@final
@dataclass(frozen=True)
class AnchorSearch(ScheduleSolver):
    r"""Minimise the true error of the accelerated run over few parameters of a warp, then climb.

    .. math:: \min_{a, b} \exp E_{samples} \log e\big( S_{a,b} \big), \qquad
              S_{a,b} = \operatorname{round} Q_{a,b}\big(\tfrac{m-1}{B}\big)

    with e the evaluator's error and Q a :class:`~otcache_solvers.search.kumaraswamy.Kumaraswamy` warp
    (``space`` names other parameters). In order: the warm starts as they are (uniform, the
    reference's warp read at B levels, ``warm``), the points nearest to them, Optuna's TPE, then
    moves of single steps. No schedule is run twice.
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
        space: what Optuna varies: ``warp``; ``gaps``, the B gaps by breaking a stick; ``integers``,
            the steps themselves, duplicates moved apart. The latter two reach every schedule with
            B - 1 numbers (:mod:`otcache_solvers.search.search_space`).
        strength: also vary a factor in [0, 1.5] on the forecast strengths, only with ``fit=False``:
            on those of the reference or of the first warm start that forecasts, else on exact
            linear extrapolation. The climb keeps the strengths of the schedule it moves.
        prune: run the schedules that Optuna suggests on a quarter of the samples first (then on
            half, without a fit), and give up those above the median there; they count as trials.
        storage: URL of a database (SQLAlchemy's, ``sqlite:///search.db``) that keeps Optuna's
            trials: several processes may search together until they have ``max_trials`` between
            them, and a search cut short goes on where it was. The warm starts and the climb are
            each process's own, as is ``nfe``. Whoever takes part must run the same model.
        study: name in the storage; ``anchor-search`` by default.

    Raises:
        OtcacheError: if a number is out of range, or settings exclude one another.
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
    space: str = "warp"
    strength: bool = False
    prune: bool = False
    storage: str | None = None
    study: str | None = None

    def __post_init__(self) -> None:
        if self.max_trials < 1:
            raise OtcacheError(expected("AnchorSearch.max_trials", self.max_trials, "at least 1"))
        if self.climb_trials < 0:
            raise OtcacheError(
                expected("AnchorSearch.climb_trials", self.climb_trials, "at least 0")
            )
        if not 0 <= self.split < 1:
            raise OtcacheError(expected("AnchorSearch.split", self.split, "at least 0 and below 1"))
        if self.space not in SPACES:
            raise OtcacheError(
                expected("AnchorSearch.space", self.space, f"one of {', '.join(SPACES)}")
            )
        self._refuse(self.bump and self.space != "warp", "bump", "only a warp has one.")
        advice = "a fit replaces the strengths searched. Pass fit=False."
        self._refuse(self.strength and self.fit, "strength", advice)
        alone = self.study is not None and self.storage is None
        self._refuse(alone, "study", "it names a study in a storage. Pass storage=...")

    @property
    def abilities(self) -> Abilities:
        """Forecasts are counted where they are fitted in each trial, or their strength is searched."""
        return Abilities(PIPELINE, forecasts=self.fit or self.strength)

    def _refuse(self, condition: bool, name: str, why: str) -> None:
        if condition:
            value = getattr(self, name)
            raise OtcacheError(expected(f"AnchorSearch.{name}", value, "left out here", why))

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Search, the same way for the same seed; the objective is the mean error searched on.

        Raises:
            OtcacheError: if the problem has no evaluator, a warm start does not fit the problem,
                the objective is unknown, every run broke, the storage cannot be reached, or its
                study was begun for another N, budget, space, objective, mean, fit or number of
                samples.
        """
        evaluator = evaluator_of(problem, "anchor-search")
        searched, kept = self._samples(evaluator)
        objective = objective_of(evaluator, self.objective)
        book = TrialBook(evaluator, searched, objective, self.fit, self.robust, self._notify)
        warm = self._warm_starts(problem)
        starts = dict(zip(warm, book.price(list(warm.values())[: self.max_trials]), strict=False))
        start = book.best()
        space = self._space(problem, list(warm.values()))
        search(
            book,
            space,
            list(warm.values()),
            trials=self.max_trials,
            seed=problem.seed,
            prune=self.prune,
            shared=self._shared(problem, book, space),
        )
        carry = space.carried if isinstance(space, StrengthSpace) else None
        settled = climb(book, trials=self.climb_trials, seed=problem.seed, carry=carry)
        chosen, verdict = self._accept(book, start, kept)
        if self.progress is not None:
            self.progress(self._most, self._most)
        pruned = {"pruned": len(book.given_up)} if self.prune else {}
        if not settled:
            verdict["advice"] = raise_limits("the climb", climb_trials=self.climb_trials)
        return Solution(
            chosen.schedule,
            chosen.value,
            Result.FOUND if settled else Result.BUDGET_SPENT,
            stats={"trials": book.tried, "warm": starts, **pruned, **verdict},
            nfe=book.nfe,
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

    def _space(self, problem: ScheduleProblem, warm: Sequence[Schedule]) -> SearchSpace:
        n, budget = problem.num_steps, problem.budget
        steps = (
            WarpSpace(n, budget, self.bump)
            if self.space == "warp"
            else SPACES[self.space](n, budget)
        )
        if not self.strength:
            return steps
        grid = evaluator_of(problem, "anchor-search").grid
        linear = Schedule(num_steps=n, computed=warm[0].computed, forecaster="linear")
        known = [s for s in (problem.reference, *warm) if s is not None]
        source = next((s for s in known if s.weights or s.forecaster == "linear"), linear)
        return StrengthSpace(steps, StrengthCurve.of(source, grid), tuple(grid.tolist()))

    def _shared(
        self, problem: ScheduleProblem, book: TrialBook, space: SearchSpace
    ) -> SharedStudy | None:
        if self.storage is None:
            return None
        identity = {
            "num_steps": problem.num_steps,
            "budget": problem.budget,
            "space": sorted(space.limits),
            "objective": book.objective or book.evaluator.objectives[0],
            "fit": self.fit,
            "robust": self.robust,
            "samples": len(book.samples),
        }
        return SharedStudy(self.storage, self.study or "anchor-search", identity)

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
