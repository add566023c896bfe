"""The steps of any solver, measured on the pipeline and kept where they are better than what was there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache.calibration.contest import clearly_below, log_errors
from otcache.calibration.recipe import FITTED, UNIFORM, name_of, solver_of
from otcache.calibration.record import (
    NfeCount,
    RecordedRuns,
    RecordJob,
    record_and_replay,
    request_of,
)
from otcache.inspection import kept_table, nfe_text
from otcache.planning import frontier_of, problem_of, solution_of
from otcache.progress import Stages
from otcache.running import choose
from otcache_core import Need, OtcacheError, Schedule
from otcache_core.calibration import Calibration
from otcache_core.contracts import ScheduleSolver
from otcache_core.errors import MismatchError, expected
from otcache_core.notices import notify
from otcache_core.plugins import Registry
from otcache_core.policy import Policy, same_grid
from otcache_core.problem import Displacements
from otcache_core.samples import Sample
from otcache_core.schedule import check_budget
from otcache_core.transport import uniform_steps

#: Name of the policy's own schedule among what is compared; the others are ``UNIFORM`` and the solver's name.
OWN = "policy"
#: One sample cannot distinguish a better schedule from a lucky one.
FEWEST = 2


@dataclass(frozen=True)
class PipelineSamples:
    """The pipeline, and what it is measured on.

    Args:
        pipe: a pipeline or loop, the one that was calibrated.
        prompts: samples, two at least with their seeds.
        seeds: as :func:`otcache.calibrate` takes them.
        budgets: those to solve for; None for those of the policy's ladder.
        batch_size: samples in one pipeline call, at most.
        probe: name of a probe; None for the first that supports the pipeline.
        progress: show bars on standard error.
        call: further arguments of the pipeline call.
    """

    pipe: Any
    prompts: Iterable[Sample]
    seeds: Iterable[int] | None
    budgets: Iterable[int] | None
    batch_size: int
    probe: str | None
    progress: bool
    call: dict[str, Any]


@dataclass(frozen=True)
class Searched:
    """A policy, and what a solver did for it.

    Args:
        policy: its rungs measured.
        rows: by budget, the geometric mean over samples of the error of the policy's own schedule, uniform
            reuse and the solver's, by name; and the name of the one that the policy has now.
        nfe: denoiser evaluations, by what they were spent on.
    """

    policy: Policy
    rows: dict[int, tuple[dict[str, float], str]]
    nfe: dict[str, int]

    @property
    def kept(self) -> dict[int, str]:
        """Whose schedule each budget has now: the policy's own, uniform reuse's or the solver's."""
        return {budget: name for budget, (_, name) in self.rows.items()}


def searched(
    calibration: Calibration,
    fitted: Policy,
    solver: str | ScheduleSolver,
    registry: Registry,
    samples: PipelineSamples,
) -> Searched:
    """Solve for some budgets, and keep the steps that measure clearly better.

    A budget's schedule is the lower of the policy's own and uniform reuse, unless one of the solver's is
    below it by a standard error (:func:`otcache.calibration.contest.clearly_below`). The solver's steps run
    with the forecast that the policy has at that budget, with weights fitted to them in closed loop where the
    policy has fitted ones, and with the forecast that the solver gave them.

    A solver that counts evaluations and is given by name may spend as many as the calibration, an equal part
    at each budget; an object has the limits that it was made with.

    Raises:
        OtcacheError: if there are fewer than two samples, no budget, or another number of steps.
        MismatchError: if it is not the pipeline that was calibrated.
    """
    budgets = _budgets(fitted, samples.budgets)
    bench, name = _opened(calibration, fitted, registry, samples), name_of(solver)
    share = sum(calibration.nfe.values()) // len(budgets)
    chosen = solver_of(
        registry,
        solver,
        objective=bench.objective,
        fit=bench.fits,
        max_nfe=max(share, budgets[-1] * bench.runs.evaluator.num_samples),
    )
    rungs = {schedule.budget: schedule for schedule in fitted.ladder}
    rows: dict[int, tuple[dict[str, float], str]] = {}
    with bench.stages.stage(f"measuring {name}", len(budgets)) as advance:
        for budget, schedule in bench.solutions(chosen, budgets, name):
            rungs[budget], rows[budget] = bench.settled(budget, schedule, name)
            advance(len(rows), len(budgets))
    kept = {schedule.budget: schedule for schedule in fitted.ladder}
    policy = msgspec.structs.replace(
        fitted,
        ladder=tuple(rungs[b] for b in sorted(rungs)),
        measured=tuple(m for m in fitted.measured if rungs[m.budget] == kept[m.budget]),
    )
    result = Searched(policy, rows, dict(bench.spent.nfe))
    bench.stages.table(kept_table(rows, bench.objective, bench.runs.evaluator.num_samples))
    bench.stages.say(f"solver {name!r} cost {nfe_text(result.nfe)}")
    return result


def _budgets(fitted: Policy, given: Iterable[int] | None) -> list[int]:
    n = fitted.num_steps
    chosen = [s.budget for s in fitted.ladder] if given is None else list(given)
    budgets = sorted({check_budget(budget, n) for budget in chosen} - {1, n})
    if not budgets:
        raise OtcacheError(expected("budgets", chosen, f"one from 2 to {n - 1} at least"))
    return budgets


def _opened(
    calibration: Calibration, fitted: Policy, registry: Registry, samples: PipelineSamples
) -> _Bench:
    """Record the samples on the pipeline that was calibrated."""
    n, stages, spent = calibration.num_steps, Stages(samples.progress), NfeCount()
    probe = choose(registry, "probes", samples.pipe, samples.probe)
    steps = calibration.provenance.get("inference_steps") or n
    request = request_of(
        probe, samples.pipe, samples.prompts, samples.seeds, steps, samples.call, samples.batch_size
    )
    if len(request.seeds) < FEWEST:
        advice = "give several prompts, or one with several seeds."
        raise OtcacheError(expected("prompts", "one sample", "two samples at least", advice))
    facts = probe.provenance(samples.pipe, request) | {"num_steps": None}
    for difference in fitted.check(facts):
        notify(difference)
    job = RecordJob(
        probe,
        samples.pipe,
        request,
        None,
        stages,
        spent,
        lambda made, seconds: _check_steps(made, n),
    )
    runs = record_and_replay(job)
    if not same_grid(runs.evaluator.grid, calibration.grid):
        raise MismatchError("the noise levels are not those that were calibrated: calibrate again.")
    return _Bench(calibration, fitted, registry, runs, stages, spent)


def _check_steps(made: int, calibrated: int) -> None:
    if made != calibrated:
        raise MismatchError(
            f"the pipeline makes {made} steps, and {calibrated} were calibrated: calibrate again."
        )


@dataclass(frozen=True, eq=False)
class _Bench:
    """The recorded samples, and what runs schedules on them."""

    calibration: Calibration
    fitted: Policy
    registry: Registry
    runs: RecordedRuns
    stages: Stages
    spent: NfeCount

    @cached_property
    def objective(self) -> str:
        """The calibration's fidelity, if there is still an error of that name."""
        offered, calibrated = self.runs.evaluator.objectives, self.calibration.fidelity
        return calibrated if calibrated in offered else offered[0]

    @cached_property
    def fits(self) -> bool:
        """Whether weights are fitted, as those of the policy were."""
        rules = {schedule.forecaster for schedule in self.fitted.ladder}
        return FITTED in rules and not self.runs.unfitted

    def solutions(
        self, solver: ScheduleSolver, budgets: Sequence[int], name: str
    ) -> Iterator[tuple[int, Schedule | None]]:
        """Yield what the solver finds at each budget; None if it finds nothing."""
        needs = solver.abilities.needs
        problem = problem_of(self.calibration)
        if Need.EVALUATOR in needs:
            problem = replace(problem, evaluator=self.runs.evaluator)
        problem = replace(problem, budget=budgets[-1], displacements=cache(self._displacements))
        if solver.abilities.all_budgets:
            self.spent.stage = "solver"
            frontier = frontier_of(solver, problem, name)
        for budget in budgets:
            self.spent.stage = "solver"
            if solver.abilities.all_budgets:
                yield budget, frontier[budget - 1].schedule
                continue
            one = replace(problem, budget=budget)
            if Need.EVALUATOR in needs:  # a search begins at what is best so far
                one = replace(one, reference=self.fitted.schedule(budget))
            yield budget, solution_of(solver, one, name).schedule

    def settled(
        self, budget: int, found: Schedule | None, name: str
    ) -> tuple[Schedule, tuple[dict[str, float], str]]:
        """Return the schedule of a budget that is kept, with the errors and its name among them."""
        self.spent.stage = "comparison"
        n, planned = self.calibration.num_steps, self.fitted.schedule(budget)
        uniform = Schedule(n, uniform_steps(n, budget))
        theirs = [] if found is None else [self.fitted.interpolation.on(found.computed), found]
        logs = self._logs(list(dict.fromkeys([planned, uniform, *theirs])))
        if self.fits and found is not None:
            logs |= self._logs([Schedule(n, found.computed)], fit=True)
        mean = {schedule: float(log.mean()) for schedule, log in logs.items()}
        start = min((planned, uniform), key=mean.__getitem__)
        others = [schedule for schedule in logs if schedule not in (planned, uniform)]
        best = min(others, key=mean.__getitem__, default=start)
        errors = {OWN: mean[planned], UNIFORM: mean[uniform]}
        errors |= {name: mean[best]} if theirs else {}
        wins = clearly_below(logs[best], logs[start])
        kept = name if wins else OWN if start == planned else UNIFORM
        row = {key: float(np.exp(log)) for key, log in errors.items()}
        return best if wins else start, (row, kept)

    def _logs(
        self, schedules: Sequence[Schedule], *, fit: bool = False
    ) -> dict[Schedule, NDArray[np.float64]]:
        done = self.runs.evaluator.evaluate(schedules, objective=self.objective, fit=fit)
        return dict(zip(done.schedules, log_errors(done.errors), strict=True))

    def _displacements(self) -> Displacements:
        name = self.registry.own("cost_models", "displacement")
        model = self.registry.create("cost_models", name)
        return model.displacements(self.runs.trajectories, self.runs.evaluator)
