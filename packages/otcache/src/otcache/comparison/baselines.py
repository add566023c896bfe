"""Baselines that are schedules: otcache itself, uniform steps, published tables and rules, solvers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from otcache.calibration.recipe import Recipe
from otcache.comparison.scheduled import Found, ScheduledBaseline, Tuning, calibrated
from otcache.planning import plan, problem_of, solution_of
from otcache.running import load_policy
from otcache.schedules import made_for, no_table, published
from otcache_core import Need, OtcacheError, Schedule, ScheduleProblem
from otcache_core.calibration import Calibration
from otcache_core.errors import OtcacheNotice
from otcache_core.transport import uniform_steps
from otcache_core.uncalibrated import default_schedule


@final
class Ours(ScheduledBaseline):
    """otcache's default policy: a given one, or one calibrated here.

    Args:
        policy: a policy file; without one, the job's calibration prompts make one.
    """

    source = "this project, default policy"

    def __init__(self, policy: str | None = None) -> None:
        self._policy = policy

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Plan from the given policy, or from a calibration made here."""
        if self._policy is not None:
            policy = load_policy(self._policy)
            with warnings.catch_warnings():  # a policy of another N: the run warns of it
                warnings.simplefilter("ignore", OtcacheNotice)
                return {b: policy.schedule(b, tuning.num_steps) for b in budgets}, None
        calibration = calibrated(tuning, Recipe())
        policy = plan(calibration)
        return {b: policy.schedule(b) for b in budgets}, sum(calibration.nfe.values())


@final
class Uncalibrated(ScheduledBaseline):
    """otcache without calibration: the default schedule, and forecasts of variable order.

    One full run shows the noise levels, and so the steps, to the report; the rule itself needs none.
    """

    source = "this project, without calibration"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Take the steps of least prior cost."""
        grid = tuning.first(1).recorded[0].grid
        facts = tuning.probe.provenance(tuning.target, tuning.request)
        n, predicted = tuning.num_steps, facts.get("prediction_type")
        return {b: default_schedule(n, b, grid, predicted) for b in budgets}, 0


@final
class UniformSteps(ScheduledBaseline):
    """Evenly spaced steps.

    Args:
        forecaster: of skipped steps; ``reuse`` repeats the last computed output, ``linear`` continues
            the line through the last two.
    """

    def __init__(self, forecaster: str = "reuse") -> None:
        rule = {"reuse": "output reuse", "linear": "two-point extrapolation in sigma"}
        self._forecaster = forecaster
        self.source = f"evenly spaced steps, {rule.get(forecaster, forecaster)}"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Space the steps evenly."""
        return {b: _even(tuning, b, self._forecaster) for b in budgets}, 0


@final
class UniformTaylor(ScheduledBaseline):
    """TaylorSeer's series on whole outputs, evenly spaced steps, order 1 to 3 by calibration error.

    References:
        From reusing to forecasting: accelerating diffusion models with TaylorSeers, 2025,
        arXiv 2503.06923.
    """

    source = "TaylorSeer (arXiv 2503.06923) on whole outputs; order 1 to 3 tuned"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Choose the order of least calibration error at each budget."""
        orders = ("taylor-1", "taylor", "taylor-3")
        return tuning.chosen(budgets, lambda b: [_even(tuning, b, name) for name in orders])


@final
class LeMiCa(ScheduledBaseline):
    """Lexicographic minimax over exact outcome costs; reuse.

    Args:
        prompts: calibration prompts on which span costs are measured, about N^2/6 full runs each.

    References:
        LeMiCa: lexicographic minimax path caching, 2025, arXiv 2511.00090.
    """

    source = "LeMiCa (arXiv 2511.00090), its rule on this pipeline's own costs"

    def __init__(self, prompts: int = 2) -> None:
        self._prompts = prompts

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Measure span costs and solve for the lexicographic minimax path."""
        few = tuning.first(self._prompts)
        options = {"samples": len(few.recorded), "progress": few.progress}
        measured = few.create("cost_models", "outcome", **options).measure(
            few.recorded, few.evaluator
        )
        given = {"costs": measured.costs}
        schedules = {b: tuning.solve("lexicographic", b, given=given) for b in budgets}
        return schedules, int(measured.nfe) + 2 * few.full_runs


@final
class MeanCache(ScheduledBaseline):
    """MeanCache's costs, sum of their fourth powers, and the forecast its authors released.

    References:
        MeanCache, 2026, arXiv 2601.19961.
    """

    source = "MeanCache (arXiv 2601.19961), released rule on this pipeline's own costs"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Measure velocity costs and solve the peak-suppressed path."""
        measured = tuning.create("cost_models", "mean-velocity").measure(tuning.recorded)
        given = {"costs": measured.costs}
        plain = {b: tuning.solve("peak-suppressed", b, given=given, gamma=4.0) for b in budgets}
        return {b: measured.applied(s) for b, s in plain.items()}, tuning.full_runs


@final
class StateDP(ScheduledBaseline):
    """A dynamic programme whose labels hold the true state of each partial schedule; reuse.

    Args:
        prompts: calibration prompts, about B N evaluations each.

    References:
        Optimal stepsize for diffusion sampling (OSS), 2025, arXiv 2503.21774.
    """

    source = "OSS-like dynamic programme (arXiv 2503.21774) over true states"

    def __init__(self, prompts: int = 4) -> None:
        self._prompts = prompts

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Run the dynamic programme once for all budgets."""
        few = tuning.first(self._prompts)
        solver = few.create("solvers", "state-dp", samples=self._prompts)
        problem = ScheduleProblem(few.num_steps, max(budgets), evaluator=few.evaluator)
        frontier = solver.frontier(problem)
        schedules = {b: s for b in budgets if (s := frontier[b - 1].schedule) is not None}
        return schedules, (max(budgets) + 2) * few.full_runs


@final
class SimulatedAnnealing(ScheduledBaseline):
    """BudCache's search on the true error of whole schedules: annealing, then a climb; reuse.

    Args:
        full_runs: evaluations it may spend on all budgets together, an equal share on each, in full
            runs of all calibration samples; otcache's calibration takes about as many for all budgets.

    References:
        BudCache, ICML 2026 (annealing of 200 iterations, relocations within three steps).
    """

    source = "BudCache-style annealing and climb, 14 full runs a calibration prompt in all"

    def __init__(self, full_runs: float = 14.0) -> None:
        self._full_runs = full_runs

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Search each budget with an equal share of the evaluations."""
        allowance = int(self._full_runs * tuning.full_runs / len(budgets))
        schedules = {}
        for budget in budgets:
            trials = allowance // (budget * tuning.evaluator.num_samples)
            schedules[budget] = tuning.solve(
                "annealing",
                budget,
                given={"evaluator": tuning.evaluator},
                relative=True,
                iterations=max(1, min(200, trials // 2)),
                max_nfe=allowance,
            )
        return schedules, allowance * len(budgets) + 2 * tuning.full_runs


@final
class FluxTable(ScheduledBaseline):
    """The hard-coded tables that LeMiCa publishes for FLUX.1-dev, resampled to N and B; reuse.

    At N = 50 and a published budget it is the table itself. Their authors force the last step.
    """

    source = "LeMiCa's published 50-step tables of FLUX.1-dev, resampled"
    TABLE = "lemica-flux-1-dev"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Resample the published tables."""
        table = published(self.TABLE)
        return {b: table.resampled(b, tuning.num_steps) for b in budgets}, 0


@final
class LeMiCaTable(ScheduledBaseline):
    """The tables that LeMiCa publishes for this class of pipelines, resampled to N and B; reuse.

    At the table's own N and budget it is the table itself. LeMiCa skips the blocks of a skipped step;
    here the whole output is reused. Of several tables the one made for the nearest size is taken.
    FLUX.1's own are those of :class:`FluxTable`.
    """

    source = "LeMiCa's published tables of this pipeline, resampled"

    def unfit(self, target: Any) -> str:
        """Return which classes there are tables for, if not this one."""
        table = made_for(target, "lemica-")
        if table is None:
            return no_table(target, "lemica-")
        return "the method flux-table is the same here" if table.name == FluxTable.TABLE else ""

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Resample the table of this class of pipelines."""
        table = made_for(tuning.target, "lemica-")
        if table is None:
            raise OtcacheError(no_table(tuning.target, "lemica-"))
        return {b: table.resampled(b, tuning.num_steps) for b in budgets}, 0


#: Begins the name of a solver's row.
PREFIX = "solver:"


def solver_of(method: str) -> str | None:
    """Return the name of the solver whose row this is; None of another method."""
    return method.removeprefix(PREFIX) if method.startswith(PREFIX) else None


@final
class SolverSteps(ScheduledBaseline):
    """The steps that a solver chooses at each budget, with the forecasts of a calibration.

    As ``otcache.plan(calibration, solver=...)``; solvers that need the pipeline have it. The NFE are those of
    the calibration and of what the solver ran.

    Args:
        solver: name of a solver.
        calibration: what it plans from.
    """

    def __init__(self, solver: str, calibration: Calibration) -> None:
        self._solver, self._calibration = solver, calibration
        self.source = f"solver {solver!r}, forecasts of otcache's calibration"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Solve each budget, and take the forecasts of the calibration."""
        solver = tuning.create("solvers", self._solver)
        fitted = plan(self._calibration)
        problem = problem_of(self._calibration)
        nfe = sum(self._calibration.nfe.values())
        if Need.EVALUATOR in solver.abilities.needs:
            problem = replace(problem, evaluator=tuning.evaluator)
            nfe += 2 * tuning.full_runs
        if Need.DISPLACEMENTS in solver.abilities.needs:
            problem = replace(problem, displacements=lambda: tuning.displacements)
            nfe += 2 * tuning.full_runs + tuning.displacements.nfe
        schedules = {}
        for budget in budgets:
            one = replace(problem, budget=budget)
            solution = solution_of(solver, one, self._solver)
            if solution.schedule is None:
                raise OtcacheError(
                    f"{self._solver} finds no schedule of {budget} steps: {solution.result.value}"
                )
            nfe += solution.nfe
            schedules[budget] = fitted.interpolation.on(solution.schedule.computed)
        return schedules, nfe


def _even(tuning: Tuning, budget: int, forecaster: str) -> Schedule:
    return Schedule(tuning.num_steps, uniform_steps(tuning.num_steps, budget), forecaster)
