"""Schedules of the rivals that skip steps of the full grid, each tuned as its authors do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from otcache.demo.methods import outcome_costs
from otcache_core import Schedule, ScheduleProblem
from otcache_core.contracts import Evaluator, FeatureProbe, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.trajectory import Trajectory
from otcache_solvers.costs.lookback_costs import with_lookbacks

LEMICA_PROMPTS = 2
STATE_PROMPTS = 4
TAYLOR = ("taylor-1", "taylor", "taylor-3")


class Rivals:
    """One schedule a method and budget.

    - *uniform, reuse* and *uniform, linear*: evenly spaced steps, the last output or the line through
      the last two.
    - *Taylor*: TaylorSeer's rule on whole outputs, evenly spaced steps, order 1 to 3 by the error on
      calibration samples at each budget.
    - *LeMiCa rule*: lexicographic minimax over exact outcome costs of two prompts; reuse.
    - *MeanCache, released rule*: its own costs, least sum of their fourth powers, its own forecast.
    - *state-DP*: a DP whose labels carry the state the schedule is really in, on four prompts; reuse.
    - *BudCache-style*: annealing with half of the allowance, then a climb, on the true final-latent
      error of all prompts, the temperature relative to it; reuse.

    Args:
        probe, pipe, request: the calibration samples.
        folder: keeps what was measured.
        allowance: denoiser evaluations the search may spend at each budget.
        largest: the largest budget that will be asked for.
    """

    NAMES: ClassVar[tuple[str, ...]] = (
        "uniform, reuse",
        "uniform, linear",
        "Taylor",
        "LeMiCa rule",
        "MeanCache, released rule",
        "state-DP",
        "BudCache-style",
    )

    def __init__(
        self,
        probe: FeatureProbe,
        pipe: Any,
        request: SampleRequest,
        folder: Path,
        allowance: int,
        largest: int,
    ) -> None:
        self._probe, self._pipe, self._request = probe, pipe, request
        self._folder, self._allowance, self._largest = folder, allowance, largest
        self._n = request.num_steps
        self._make = Registry().create

    def schedule(self, name: str, budget: int) -> Schedule:
        """The method's schedule at a budget."""
        makers: dict[str, Callable[[int], Schedule]] = {
            "uniform, reuse": self._even,
            "uniform, linear": lambda b: self._even(b, "linear"),
            "Taylor": lambda b: self._best([self._even(b, name) for name in TAYLOR]),
            "LeMiCa rule": lambda b: self._solved("lexicographic", b, costs=self._outcome),
            "MeanCache, released rule": self._mean_cache,
            "state-DP": lambda b: self._state_dp[b - 1],
            "BudCache-style": self._annealed,
        }
        return makers[name](budget)

    def _solved(self, solver: str, budget: int, **given: Any) -> Schedule:
        problem = ScheduleProblem(self._n, budget, **given)
        found = self._make("solvers", solver).solve(problem).schedule
        assert found is not None, f"{solver} found nothing at B = {budget}"
        return found

    def _even(self, budget: int, forecaster: str = "reuse") -> Schedule:
        computed = self._solved("uniform", budget).computed
        return Schedule(num_steps=self._n, computed=computed, forecaster=forecaster)

    @cached_property
    def _recorded(self) -> Sequence[Trajectory]:
        return list(self._probe.record(self._pipe, self._request))

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self._probe.evaluator(self._pipe, self._request, self._recorded)

    def _best(self, schedules: Sequence[Schedule]) -> Schedule:
        errors = self._evaluator.evaluate(schedules, objective="rmse").errors
        return schedules[int(np.log(np.maximum(errors, 1e-12)).mean(axis=1).argmin())]

    def _first(self, prompts: int) -> SampleRequest:
        ask = self._request
        names, seeds = ask.prompts[:prompts], ask.seeds[:prompts]
        return SampleRequest(names, seeds, self._n, ask.call, ask.batch_size)

    @cached_property
    def _outcome(self) -> NDArray[np.float64]:
        path = self._folder / "lemica.npy"
        if not path.exists():
            request = self._first(LEMICA_PROMPTS)
            nothing = lambda done, total: None  # noqa: E731  # a callback of two arguments
            np.save(path, outcome_costs(self._probe, self._pipe, request, Registry(), nothing))
        return np.load(path)

    def _mean_cache(self, budget: int) -> Schedule:
        table = self._make("cost_models", "mean-velocity").lookback_costs(self._recorded)
        planned = self._make("solvers", "peak-suppressed", gamma=4.0)
        found = planned.solve(ScheduleProblem(self._n, budget, costs=table.costs)).schedule
        return with_lookbacks(found, table)

    @cached_property
    def _state_dp(self) -> list[Schedule]:
        solver = self._make("solvers", "state-dp", samples=STATE_PROMPTS)
        problem = ScheduleProblem(self._n, self._largest, evaluator=self._evaluator)
        return [solution.schedule for solution in solver.frontier(problem)]

    def _annealed(self, budget: int) -> Schedule:
        trials = self._allowance // (budget * self._evaluator.num_samples)
        solver = self._make(
            "solvers",
            "annealing",
            relative=True,
            iterations=min(200, trials // 2),
            max_nfe=self._allowance,
        )
        found = solver.solve(ScheduleProblem(self._n, budget, evaluator=self._evaluator))
        return found.schedule
