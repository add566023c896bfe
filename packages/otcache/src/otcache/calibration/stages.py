"""The stages of a calibration: record, price spans, reference, anchor, ladder, refinement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from otcache.calibration.contest import (
    Contender,
    Job,
    Workbench,
    clearly_below,
    compare,
    log_errors,
)
from otcache.calibration.recipe import (
    QUANTILE,
    gives_vectors,
    name_of,
    names_of,
    solver_of,
)
from otcache_core import OtcacheError, Schedule, ScheduleProblem, Solution, Trajectory
from otcache_core.calibration import Candidate, Rung
from otcache_core.contracts import (
    SampleRequest,
    ScheduleSolver,
    SpanCosts,
)
from otcache_core.errors import expected
from otcache_core.problem import Displacements
from otcache_core.samples import brief
from otcache_core.storage.recordings import inner_products
from otcache_core.transport import roundings

#: Ways in which one rung's interpolated targets are rounded.
MOST_ROUNDINGS = 8
#: Above this part of N only the second-order plan is fitted.
UPPER = 0.7


def record(job: Job) -> list[Trajectory]:
    """Record every sample, prompt after prompt; a prompt that is in the store is not run again.

    Raises:
        OtcacheError: if samples make another number of steps, or states of another size, than the first.
    """
    request, store = job.request, job.store
    found: list[Trajectory] = []
    total = len(request.prompts)
    with job.stages.stage("recording full runs", total) as advance:
        for part in _prompts(request):
            kept = [t for t in (store.trajectory(i) if store else None for i in part) if t]
            if len(kept) < len(part):
                kept = list(_recorded(job, part))
                if store:
                    pairs = zip(part, kept, strict=True)
                    kept = [store.keep_trajectory(index, made) for index, made in pairs]
            if not found:
                job.begun(kept[0].num_steps)
            found += kept
            _check_alike(found[0], kept)
            advance(part.stop, total)
    return _on_one_grid(found)


def _check_alike(first: Trajectory, others: Sequence[Trajectory]) -> None:
    """See that all samples can be measured by one schedule and in one figure."""
    for run in others:
        for what, got, wanted in (
            ("steps", run.num_steps, first.num_steps),
            ("numbers in a state", run.states[0].size, first.states[0].size),
        ):
            if got != wanted:
                advice = "give all samples one strength, height, width and size of image."
                raise OtcacheError(
                    expected(
                        f"{what} of {run.label}", got, f"{wanted}, as of {first.label}", advice
                    )
                )


def _on_one_grid(runs: list[Trajectory]) -> list[Trajectory]:
    """Give all runs the grid of the first, from which those that were identified differ by rounding.

    Where they differ by more, no run's own grid is that of all: it is the share of steps to go.
    """
    grid = runs[0].grid
    span = float(np.ptp(grid))
    if any(np.abs(run.grid - grid).max() > 1e-2 * span for run in runs):
        grid = np.linspace(1.0, 0.0, len(grid))
    return [run if run.grid is grid else replace(run, grid=grid) for run in runs]


def _prompts(request: SampleRequest) -> Iterator[range]:
    """The samples of each prompt, which stand together; at most a batch of them at once."""
    start = 0
    for _, same in groupby(request.prompts, key=id):  # a mapping may hold what cannot be compared
        stop = start + len(list(same))
        for at in range(start, stop, request.batch_size):
            yield range(at, min(at + request.batch_size, stop))
        start = stop


def _recorded(job: Job, part: range) -> Iterator[Trajectory]:
    request = job.request
    prompts, seeds = request.prompts[part.start : part.stop], request.seeds[part.start : part.stop]
    keep = request.keep.share(len(part), len(request.prompts))
    inside = replace(request, prompts=prompts, seeds=seeds, keep=keep)
    for index, trajectory in zip(part, job.probe.record(job.target, inside), strict=True):
        own = brief(request.prompts[index])
        label = f"sample {index}, seed {request.seeds[index]}"
        yield replace(trajectory, label=f"{label}, {own}" if own else label)


def mean_gram(trajectories: Sequence[Trajectory]) -> NDArray[np.float64]:
    """H[a, b] = E <v_a, v_b>, mean over elements, then samples; shape (N, N)."""
    return np.asarray(np.mean([inner_products(t.outputs) for t in trajectories], axis=0))


def price_spans(bench: Workbench) -> SpanCosts:
    """Stage 1a: what skipping each span does to the result, by one gain a step."""
    bench.ledger.stage = "span costs"
    with bench.stages.stage("pricing spans", 1) as advance:
        costs = bench.cost_model.measure(bench.trajectories, bench.evaluator)
        advance(1, 1)
    return costs


def gains(
    costs: NDArray[np.float64], gram: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""g_j, the growth of a deviation from step j to the end, shape (N + 1,).

    .. math:: g_j = \frac{w(j-2 \to j)}{|s_j - s_{j-1}| \; (E \| v_{j-2} - v_{j-1} \|^2)^{1/2}}

    what a span does to the result over what it does on the spot; 1 where nothing is displaced, and
    for j < 2.
    """
    j = np.arange(2, len(grid))
    moved = gram[j - 2, j - 2] - 2 * gram[j - 2, j - 1] + gram[j - 1, j - 1]
    local = np.abs(np.diff(grid)[1:]) * np.sqrt(np.maximum(moved, 0.0))
    priced = costs[j - 2, j]
    known = (local > 0) & (priced > 0)
    growth = np.divide(priced, local, out=np.ones_like(local), where=known)
    return np.concatenate([[1.0, 1.0], growth])


@dataclass
class Planner:
    """Schedules that need no pipeline: by default the graph method's and the second-order DP's."""

    bench: Workbench
    costs: NDArray[np.float64]
    gram: NDArray[np.float64]

    def __post_init__(self) -> None:
        grid, n = self.bench.trajectories[0].grid, self.bench.num_steps
        growth = gains(self.costs, self.gram, grid)
        self.problem = ScheduleProblem(
            n,
            n,
            self.costs,
            gram=self.gram,
            grid=grid,
            gains=growth,
            seed=self.bench.recipe.seed,
            displacements=self._vectors(),
        )
        chosen = self.bench.recipe.proposals
        self._solvers: dict[str, ScheduleSolver] = {
            name: solver_of(self.bench.registry, choice)
            for name, choice in zip(names_of(chosen), chosen, strict=True)
        }
        self._frontiers: dict[str, list[Solution]] = {}

    def plan(self, budget: int) -> dict[str, Schedule]:
        """One schedule a solver that finds one, by its name."""
        found = {name: self._solution(name, budget).schedule for name in self._solvers}
        return {name: schedule for name, schedule in found.items() if schedule is not None}

    def _vectors(self) -> Callable[[], Displacements] | None:
        """What measures displacements, once and only if it is asked; None of a model of sizes."""
        model, bench = self.bench.cost_model, self.bench
        if not gives_vectors(model):
            return None
        return cache(lambda: model.displacements(bench.trajectories, bench.evaluator))

    def _solution(self, name: str, budget: int) -> Solution:
        """Of one budget; where one pass answers all budgets, it is made once."""
        solver = self._solvers[name]
        if not solver.abilities.all_budgets:
            return solver.solve(replace(self.problem, budget=budget))
        if name not in self._frontiers:
            self._frontiers[name] = solver.frontier(self.problem)
        return self._frontiers[name][budget - 1]


def find_anchor(
    bench: Workbench, reference: Schedule, warm: Sequence[Schedule], measured: ScheduleProblem
) -> Schedule:
    """Stage 2: search the end-to-end error at the anchor budget.

    Args:
        bench: what runs schedules.
        reference: of the stage before.
        warm: schedules to begin with.
        measured: what is known of the pipeline.
    """
    bench.ledger.stage = "anchor search"
    recipe = bench.recipe
    budget = recipe.anchor_budget
    assert budget is not None
    total = recipe.anchor_trials + recipe.climb_trials
    with bench.stages.stage("searching the anchor", total) as advance:
        solver = solver_of(
            bench.registry,
            recipe.anchor_search,
            max_trials=recipe.anchor_trials,
            climb_trials=recipe.climb_trials,
            warm=list(warm),
            objective=bench.objective,
            fit=bench.fit,
            progress=advance,
        )
        problem = replace(measured, budget=budget, reference=reference, evaluator=bench.searched)
        solution = solver.solve(problem)
    if solution.schedule is None:
        raise OtcacheError(
            f"no anchor schedule of {budget} steps was found: {solution.result.value}"
        )
    return bench.forecast(solution.schedule)


def climb_ladder(
    bench: Workbench, anchor: Schedule, reference: Schedule, planner: Planner
) -> list[Contender]:
    """Stage 3: at every rung fit the interpolated schedule, beside what planning alone offers.

    Where the recipe's allowance for it lasts, from the anchor's budget up, targets interpolated by
    ``quantile`` are rounded in several ways. Where nearly all steps are computed a run costs most and
    planning matters least: there one plan is fitted.
    """
    bench.ledger.stage = "ladder"
    budgets = bench.recipe.ladder or ()
    found = []
    left = int(bench.recipe.rounding_runs * bench.num_steps)
    ends = replace(planner.problem, anchor=anchor, reference=reference)
    with bench.stages.stage("fitting the ladder", len(budgets)) as advance:
        for done, budget in enumerate(budgets, 1):
            price = max(1, budget - 1)  # step 0 is known from the full run
            ways = max(1, min(MOST_ROUNDINGS, left // price)) if budget > anchor.budget else 1
            between = _interpolations(bench, replace(ends, budget=budget), ways)
            left -= price * len(between) if len(between) > 1 else 0
            planned = planner.plan(budget)
            if budget > UPPER * bench.num_steps and "second-order" in planned:
                candidates = {"second-order": planned["second-order"]}
            else:
                named = zip([name_of(bench.recipe.interpolation)], between, strict=False)
                candidates = dict(named) | planned
            if candidates:
                found.append(compare(bench, candidates, between[1:]))
            advance(done, len(budgets))
    return found


def _interpolations(bench: Workbench, problem: ScheduleProblem, ways: int) -> list[Schedule]:
    """The schedules of a budget between anchor and reference, the solver's own first; perhaps none."""
    choice, (anchor, reference) = bench.recipe.interpolation, (problem.anchor, problem.reference)
    assert anchor is not None
    assert reference is not None
    if choice == QUANTILE:
        return roundings(anchor, reference, problem.budget, ways)
    found = solver_of(bench.registry, choice).solve(problem).schedule
    return [] if found is None else [found]


def refine_ladder(bench: Workbench, ladder: Sequence[Rung]) -> list[Rung]:
    """Stage 6: refine each rung by the recipe's solver, smallest budget first.

    A rung whose price exceeds what the recipe's allowance has left stays as it is, and so does one where
    a baseline won. What a solver says of samples that it kept out (``Solution.kept_out``) decides; one that
    keeps none has to be clearly below the rung on all samples, both run once more, which is not of the
    allowance. The rung's error is then lowered in the same ratio.
    """
    bench.ledger.stage = "refinement"
    bench.ledger.spend(0)
    allowance = int(bench.recipe.refine_runs * bench.num_steps * len(bench.trajectories))
    rungs = []
    with bench.stages.stage("refining the ladder", len(ladder)) as advance:
        for done, rung in enumerate(ladder, 1):
            left = allowance - bench.ledger.nfe["refinement"]
            rungs.append(_refined(bench, rung, left))
            advance(done, len(ladder))
    return rungs


def _refined(bench: Workbench, rung: Rung, max_nfe: int) -> Rung:
    budget, choice = rung.schedule.budget, bench.recipe.refinement
    one_run = budget * len(bench.trajectories)
    if choice is None or rung.schedule.forecaster != bench.rule or max_nfe < one_run:
        return rung
    solver = solver_of(
        bench.registry, choice, objective=bench.fidelity, fit=bench.fit, max_nfe=max_nfe
    )
    if solver.abilities.forecasts and not bench.fit:  # it would move weights, and there are none
        return rung
    problem = ScheduleProblem(
        bench.num_steps, budget, reference=rung.schedule, evaluator=bench.searched
    )
    solution = solver.solve(problem)
    ratio = _lowered(bench, rung.schedule, solution)
    if ratio is None or solution.schedule is None:
        return rung
    error = rung.error * ratio
    table = {**rung.candidates, "refined": Candidate(error, len(bench.trajectories))}
    made = solution.schedule if bench.fit else bench.forecast(solution.schedule)
    return Rung(made, error, "refined", table)


def _lowered(bench: Workbench, before: Schedule, solution: Solution) -> float | None:
    """The part of its error that a refined schedule leaves; None where it is not known to be better."""
    held, after = solution.kept_out, solution.schedule
    if held is not None:
        return held.refined / held.start if held.accepted else None
    if after is None or after == before:
        return None
    both = bench.searched.evaluate([before, after], objective=bench.fidelity)
    own, other = log_errors(both.errors)
    return float(np.exp((other - own).mean())) if clearly_below(other, own) else None
