"""The stages of a calibration that end in its ladder: span costs, reference, anchor, ladder; and refinement.

:func:`measure` goes through them in this order; :func:`refine_ladder` comes last of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.calibration.contest import (
    Contender,
    Workbench,
    best_of,
    clearly_below,
    log_errors,
    settle_ladder,
)
from otcache.calibration.recipe import (
    BASELINES,
    QUANTILE,
    gives_vectors,
    name_of,
    proposers,
    solver_of,
)
from otcache_core import OtcacheError, Schedule, ScheduleProblem, Solution, Trajectory
from otcache_core.calibration import Calibration, Candidate, Rung
from otcache_core.contracts import SpanCosts
from otcache_core.problem import Displacements
from otcache_core.storage.recordings import inner_products
from otcache_core.transport import roundings

#: Ways in which one rung's interpolated targets are rounded.
MOST_ROUNDINGS = 8
#: Above this part of N only the second-order proposal is fitted.
UPPER = 0.7


def measure(bench: Workbench, provenance: dict[str, Any]) -> Calibration:
    """Go through the stages from the recorded runs to the ladder."""
    costs = span_costs(bench)
    gram = mean_gram(bench.trajectories)
    proposals = Proposals(bench, costs.costs, gram)
    if bench.recipe.anchor_search is None:
        contenders = fit_proposals(bench, proposals)
        ends = contenders[0].schedule, contenders[-1].schedule
    else:
        reference = find_reference(bench, proposals)
        warm = list(proposals.at(bench.recipe.anchor_budget or 1).values())
        ends = find_anchor(bench, reference, warm, proposals.problem), reference
        contenders = climb_ladder(bench, *ends, proposals)
    return Calibration(
        provenance=provenance,
        num_steps=bench.num_steps,
        grid=bench.trajectories[0].grid,
        samples=tuple(t.label for t in bench.trajectories),
        gram=gram,
        span_costs=costs.costs,
        span_costs_nfe=costs.nfe,
        span_costs_samples=costs.samples,
        anchor=ends[0],
        reference=ends[1],
        ladder=tuple(settle_ladder(bench, contenders)),
        nfe=dict(bench.spent.nfe),
        fidelity=bench.fidelity,
        output_weights=bench.runs.output_weights,
        interpolation=name_of(bench.recipe.interpolation),
        anchored=bench.recipe.anchor_search is not None,
    )


def span_costs(bench: Workbench) -> SpanCosts:
    """Measure what skipping each span does to the result, by one gain per step."""
    bench.spent.stage = "span costs"
    with bench.stages.stage("measuring span costs"):
        return bench.cost_model.measure(bench.trajectories, bench.evaluator)


def mean_gram(trajectories: Sequence[Trajectory]) -> NDArray[np.float64]:
    """Return H[a, b] = E <v_a, v_b>, mean over elements, then samples; shape (N, N)."""
    return np.asarray(np.mean([inner_products(t.outputs) for t in trajectories], axis=0))


@dataclass
class Proposals:
    """Schedules that need no pipeline: by default the graph method's and the second-order DP's.

    Args:
        bench: whose recipe names the solvers.
        costs: of spans, shape (N, N + 1).
        gram: H[a, b] = E <v_a, v_b>, mean over elements, then samples; shape (N, N).
    """

    bench: Workbench
    costs: NDArray[np.float64]
    gram: NDArray[np.float64]

    def __post_init__(self) -> None:
        bench, n = self.bench, len(self.gram)
        grid = bench.trajectories[0].grid
        self.problem = ScheduleProblem(
            n,
            n,
            self.costs,
            gram=self.gram,
            grid=grid,
            gains=gains(self.costs, self.gram, grid),
            seed=bench.recipe.seed,
            displacements=self._vectors(),
        )
        self._solvers = proposers(bench.recipe, bench.registry)
        self._frontiers: dict[str, list[Solution]] = {}

    def at(self, budget: int) -> dict[str, Schedule]:
        """Return one schedule a solver that finds one, by its name."""
        schedules = {name: self._solution(name, budget).schedule for name in self._solvers}
        return {name: schedule for name, schedule in schedules.items() if schedule is not None}

    def _vectors(self) -> Callable[[], Displacements] | None:
        """Return what measures displacements, once and when needed; None of a model of sizes."""
        model, bench = self.bench.cost_model, self.bench
        if not gives_vectors(model):
            return None
        return cache(lambda: model.displacements(bench.trajectories, bench.evaluator))

    def _solution(self, name: str, budget: int) -> Solution:
        """Solve for one budget; where one pass gives all budgets, it is made once."""
        solver = self._solvers[name]
        if not solver.abilities.all_budgets:
            return solver.solve(replace(self.problem, budget=budget))
        if name not in self._frontiers:
            self._frontiers[name] = solver.frontier(self.problem)
        return self._frontiers[name][budget - 1]


def find_reference(bench: Workbench, proposals: Proposals) -> Schedule:
    """Keep the best of the proposals of B_r steps, by true error."""
    bench.spent.stage = "reference"
    budget = bench.recipe.reference_budget
    assert budget is not None
    with bench.stages.stage("choosing the reference"):
        return best_of(bench, _proposed(bench, proposals, budget)).schedule


def _proposed(bench: Workbench, proposals: Proposals, budget: int) -> dict[str, Schedule]:
    """Return the proposals of a budget.

    Raises:
        OtcacheError: if there is none.
    """
    if proposed := proposals.at(budget):
        return proposed
    names = ", ".join(map(name_of, bench.recipe.proposals))
    raise OtcacheError(
        f"no solver of Recipe.proposals ({names}) finds a schedule of {budget} steps: "
        "add 'second-order' to them."
    )


def gains(
    costs: NDArray[np.float64], gram: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""Return g_j, the growth of a deviation from step j to the end, shape (N + 1,).

    .. math:: g_j = \frac{w(j-2 \to j)}{|s_j - s_{j-1}| \; (E \| v_{j-2} - v_{j-1} \|^2)^{1/2}}

    what a span does to the result over what it does on the spot; 1 where nothing is displaced, and
    for j < 2.
    """
    j = np.arange(2, len(grid))
    moved = gram[j - 2, j - 2] - 2 * gram[j - 2, j - 1] + gram[j - 1, j - 1]
    local = np.abs(np.diff(grid)[1:]) * np.sqrt(np.maximum(moved, 0.0))
    cost = costs[j - 2, j]
    known = (local > 0) & (cost > 0)
    growth = np.divide(cost, local, out=np.ones_like(local), where=known)
    return np.concatenate([[1.0, 1.0], growth])


def find_anchor(
    bench: Workbench, reference: Schedule, warm: Sequence[Schedule], measured: ScheduleProblem
) -> Schedule:
    """Search the end-to-end error at the anchor budget.

    Args:
        bench: what runs schedules.
        reference: of the stage before.
        warm: schedules to begin with.
        measured: what is known of the pipeline.
    """
    bench.spent.stage = "anchor search"
    recipe = bench.recipe
    budget, choice = recipe.anchor_budget, recipe.anchor_search
    assert budget is not None
    assert choice is not None
    total = recipe.anchor_trials + recipe.climb_trials
    with bench.stages.stage("searching the anchor", total) as advance:
        solver = solver_of(
            bench.registry,
            choice,
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


def fit_proposals(bench: Workbench, proposals: Proposals) -> list[Contender]:
    """Fit the proposals at every rung, and nothing else.

    Raises:
        OtcacheError: if no solver proposes a schedule of a budget of the ladder.
    """
    bench.spent.stage = "ladder"
    budgets = bench.recipe.ladder or ()
    contenders = []
    with bench.stages.stage("fitting the ladder", len(budgets)) as advance:
        for done, budget in enumerate(budgets, 1):
            contenders.append(best_of(bench, _proposed(bench, proposals, budget)))
            advance(done, len(budgets))
    return contenders


def climb_ladder(
    bench: Workbench, anchor: Schedule, reference: Schedule, proposals: Proposals
) -> list[Contender]:
    """Fit the interpolated schedule and the proposals at every rung.

    Where the recipe's allowance for it lasts, from the anchor's budget up, targets interpolated by
    ``quantile`` are rounded in several ways. Where nearly all steps are computed a run costs most and
    the choice of steps matters least: there one proposal is fitted.
    """
    bench.spent.stage = "ladder"
    budgets = bench.recipe.ladder or ()
    contenders = []
    left = int(bench.recipe.rounding_runs * bench.num_steps)
    ends = replace(proposals.problem, anchor=anchor, reference=reference)
    with bench.stages.stage("fitting the ladder", len(budgets)) as advance:
        for done, budget in enumerate(budgets, 1):
            cost = max(1, budget - 1)  # step 0 is known from the full run
            ways = max(1, min(MOST_ROUNDINGS, left // cost)) if budget > anchor.budget else 1
            between = _interpolations(bench, replace(ends, budget=budget), ways)
            left -= cost * len(between) if len(between) > 1 else 0
            proposed = proposals.at(budget)
            if budget > UPPER * bench.num_steps and "second-order" in proposed:
                candidates = {"second-order": proposed["second-order"]}
            else:
                named = zip([name_of(bench.recipe.interpolation)], between, strict=False)
                candidates = dict(named) | proposed
            if candidates:
                contenders.append(best_of(bench, candidates, between[1:]))
            advance(done, len(budgets))
    return contenders


def _interpolations(bench: Workbench, problem: ScheduleProblem, ways: int) -> list[Schedule]:
    """Return the schedules of a budget between anchor and reference, the solver's own first."""
    choice, (anchor, reference) = bench.recipe.interpolation, (problem.anchor, problem.reference)
    assert anchor is not None
    assert reference is not None
    if choice == QUANTILE:
        return roundings(anchor, reference, problem.budget, ways)
    solved = solver_of(bench.registry, choice).solve(problem).schedule
    return [] if solved is None else [solved]


def refine_ladder(bench: Workbench, ladder: Sequence[Rung]) -> list[Rung]:
    """Refine each rung by the recipe's solver, smallest budget first.

    A rung that costs more than the recipe's allowance has left stays as it is, and so does one where
    a baseline won. What a solver says of samples that it kept out (``Solution.kept_out``) decides; one that
    keeps none has to be clearly below the rung on all samples, both run once more, which is not of the
    allowance. The rung's error is then lowered in the same ratio.
    """
    allowance = bench.allowance("refinement", bench.recipe.refine_runs)
    rungs = []
    with bench.stages.stage("refining the ladder", len(ladder)) as advance:
        for done, rung in enumerate(ladder, 1):
            left = allowance - bench.spent.nfe["refinement"]
            rungs.append(_refined(bench, rung, left))
            advance(done, len(ladder))
    return rungs


def _refined(bench: Workbench, rung: Rung, max_nfe: int) -> Rung:
    budget, choice = rung.schedule.budget, bench.recipe.refinement
    one_run = budget * len(bench.trajectories)
    if choice is None or rung.winner in BASELINES or max_nfe < one_run:
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
    refined = solution.schedule if bench.fit else bench.forecast(solution.schedule)
    return Rung(refined, error, "refined", table, rung.errors)


def _lowered(bench: Workbench, before: Schedule, solution: Solution) -> float | None:
    """Return the part of its error that a refined schedule leaves; None if it is not known to be better."""
    held, after = solution.kept_out, solution.schedule
    if held is not None:
        return held.refined / held.start if held.accepted else None
    if after is None or after == before:
        return None
    both = bench.searched.evaluate([before, after], objective=bench.fidelity)
    old, new = log_errors(both.errors)
    return float(np.exp((new - old).mean())) if clearly_below(new, old) else None
