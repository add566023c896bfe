"""Which schedule of a budget is kept: candidates are compared with each other and with baselines.

:class:`Workbench` runs them: the recorded samples with all that measures schedules on them. :func:`best_of`
compares fitted schedules of a budget, :func:`settle_ladder` the best of them with five baselines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.calibration.recipe import (
    BASELINES,
    FITTED,
    UNCALIBRATED,
    UNIFORM,
    Recipe,
    cost_model_of,
)
from otcache.calibration.record import NfeCount, RecordedRuns
from otcache.progress import Stages
from otcache_core import OtcacheError, Schedule, Trajectory
from otcache_core.calibration import Candidate, Rung
from otcache_core.contracts import CostModel, Drift, Evaluation, Evaluator, ForwardingEvaluator
from otcache_core.errors import expected
from otcache_core.plugins import Registry
from otcache_core.targets import Measured
from otcache_core.transport import uniform_steps
from otcache_core.uncalibrated import default_schedule

Floats = NDArray[np.float64]

#: What is not below this multiple of the best error, where both were screened, is not run further.
SCREENED_OUT = 2.0
#: What ran on a part of the samples only, since the allowance is spent, wins below this part.
SCREENED_ONLY = 0.5
#: With one sample the fit has seen it, so its error counts as this many times as large, and as the
#: square of it where a baseline is missing.
UNSEEN = 2.0
#: Without a fallback weights of several branches count below this multiple of what needs no calibration,
#: where at least this share of the steps is computed: under guidance few samples say little of others.
GUIDED, MANY = 0.6, 0.25
#: Part of the allowance that may be held back to screen ``UNIFORM`` at the larger rungs.
HELD_BACK = 0.5


@dataclass
class Workbench:
    """What every stage works with.

    Args:
        recipe: resolved for N steps.
        registry: where plugins come from.
        runs: the recorded samples.
        stages: shows progress.
        spent: counts evaluations.
        grid: s_0 .. s_N of an accelerated run of the target; empty if none is known before it runs.
        prediction: what the denoiser predicts, as the policy's provenance has it.
        solved: what a solver found at a budget between two schedules.
    """

    recipe: Recipe
    registry: Registry
    runs: RecordedRuns
    stages: Stages
    spent: NfeCount
    grid: tuple[float, ...] = ()
    prediction: str | None = None
    solved: dict[tuple[int, Schedule, Schedule], Schedule | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.objective = self._offered("objective", self.recipe.objective, "lpips")
        self.fidelity = self._offered("fidelity", self.recipe.fidelity, "rmse")
        self.fit = not self.runs.unfitted and self.recipe.forecaster == FITTED

    def _offered(self, what: str, wanted: str | None, default: str) -> str:
        """Return the error of the recipe, else the default, else the first that the evaluator has."""
        offered = self.evaluator.objectives
        if wanted is None:
            return default if default in offered else offered[0]
        if wanted not in offered:
            raise OtcacheError(expected(what, wanted, f"one of {', '.join(offered)}"))
        return wanted

    @property
    def evaluator(self) -> Evaluator:
        """Measures schedules on the samples."""
        return self.runs.evaluator

    @property
    def trajectories(self) -> Sequence[Trajectory]:
        """One per sample."""
        return self.runs.trajectories

    @property
    def num_steps(self) -> int:
        """N."""
        return self.trajectories[0].num_steps

    @property
    def rule(self) -> str:
        """The forecaster of a rung that no baseline won."""
        chosen = self.recipe.forecaster
        return "reuse" if chosen == FITTED and not self.fit else chosen

    def forecast(self, schedule: Schedule) -> Schedule:
        """Return the schedule with the recipe's forecaster; itself where weights are fitted while it runs."""
        chosen = self.recipe.forecaster
        return schedule if chosen == FITTED else forecast_by(chosen, schedule)

    @cached_property
    def searched(self) -> Evaluator:
        """What a search measures plain schedules on: each runs as the recipe's forecaster makes it."""
        chosen = self.recipe.forecaster
        return self.evaluator if chosen == FITTED else Forecasting(self.evaluator, chosen)

    @cached_property
    def cost_model(self) -> CostModel:
        """What measures the costs of spans."""
        samples = min(self.recipe.cost_samples, len(self.trajectories))
        return cost_model_of(self.registry, self.recipe.cost_model, samples=samples)

    def allowance(self, stage: str, runs: float) -> int:
        """Begin a stage, and return the evaluations of so many full runs per sample."""
        self.spent.stage = stage
        self.spent.spend(0)
        return int(runs * self.num_steps * len(self.trajectories))


def forecast_by(forecaster: str, schedule: Schedule) -> Schedule:
    """Return the steps of a schedule with another forecaster, which holds no weights."""
    return Schedule(schedule.num_steps, schedule.computed, forecaster)


class Forecasting(ForwardingEvaluator):
    """Give schedules that reuse to another evaluator as ones that forecast.

    A search tries steps and knows no forecasts but reuse and fitted ones; so what it tries is measured
    as it will run. Results carry the schedules that were given.

    Args:
        inner: measures.
        forecaster: name of one that needs no weights.
    """

    def __init__(self, inner: Evaluator, forecaster: str) -> None:
        self.inner, self._forecaster = inner, forecaster

    def evaluate(self, schedules: Sequence[Schedule], **options: Any) -> Evaluation:
        """Evaluate the schedules as they will run."""
        done = self.inner.evaluate(self._forecast(schedules), **options)
        return done if options.get("fit") else replace(done, schedules=tuple(schedules))

    def drift(self, schedules: Sequence[Schedule], **options: Any) -> Drift:
        """Compare all states of the schedules as they will run."""
        return self.inner.drift(self._forecast(schedules), **options)

    def _forecast(self, schedules: Iterable[Schedule]) -> list[Schedule]:
        name = self._forecaster
        return [forecast_by(name, s) if s.forecaster == "reuse" else s for s in schedules]


@dataclass(frozen=True, eq=False)
class Contender:
    """The best of a budget's schedules that were run on all samples, with fitted weights.

    Args:
        schedule: with its weights.
        name: of it among the candidates.
        logs: logarithm of its error on each sample, shape (samples,).
        candidates: what was measured, by name.
        errors: of it by every metric that was measured, each of shape (samples,).
    """

    schedule: Schedule
    name: str
    logs: NDArray[np.float64]
    candidates: dict[str, Candidate]
    errors: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Geometric mean over samples."""
        return float(np.exp(self.logs.mean()))


def best_of(
    bench: Workbench, candidates: Mapping[str, Schedule], variants: Sequence[Schedule] = ()
) -> Contender:
    """Run every schedule while its weights are fitted, and keep the best.

    Schedules are compared by the mean over samples of the logarithm of their error, since errors
    are heavy-tailed. The best of the variants takes the place of the best candidate only where it is
    clearly below it: of many alike the best is in part the luckiest.

    Args:
        bench: what runs them.
        candidates: of one budget, by name.
        variants: further roundings of the candidate ``quantile``.

    Raises:
        OtcacheError: if every schedule breaks the run.
    """
    named = dict(candidates)
    first = {schedule.computed: name for name, schedule in reversed(named.items())}
    known = len(first)
    for number, schedule in enumerate(variants, 2):
        if schedule.computed not in first:
            name = f"quantile, rounding {number}"
            first[schedule.computed], named[name] = name, schedule
    unique = list({s.computed: bench.forecast(s) for s in named.values()}.values())
    done = bench.evaluator.evaluate(unique, objective=bench.fidelity, fit=bench.fit)
    logs = log_errors(done.errors)
    best = int(logs[:known].mean(axis=1).argmin())
    if known < len(unique):
        challenger = known + int(logs[known:].mean(axis=1).argmin())
        best = challenger if clearly_below(logs[challenger], logs[best]) else best
    if not np.isfinite(logs[best]).all():
        raise OtcacheError(
            f"every schedule of budget {unique[0].budget} broke the run: NaN or infinity."
        )
    row = {schedule.computed: at for at, schedule in enumerate(unique)}
    table = {name: candidate(logs[row[schedule.computed]]) for name, schedule in named.items()}
    name, errors = first[unique[best].computed], by_metric(done, bench.fidelity)
    measured = {metric: found[best] for metric, found in errors.items()}
    return Contender(done.schedules[best], name, logs[best], table, measured)


def by_metric(done: Evaluation, objective: str) -> dict[str, Floats]:
    """Return the errors of an evaluation by every metric that was measured, each (schedules, samples)."""
    return {objective: done.errors, **done.others}


def settle_ladder(bench: Workbench, contenders: Sequence[Contender]) -> list[Rung]:
    """Keep a baseline at each rung where the fitted schedule is above it.

    The five baselines run on a quarter of the samples, and on the others those that are below twice the
    best there. Samples are compared pair by pair, so what a screened baseline did on a part of them
    counts by its ratio to the fitted schedule there. The best is kept; but of many alike the best is in
    part the luckiest, so uniform reuse, the recipe's fallback, gives way only to what is clearly below
    it, by a standard error of the paired difference or by half. Where the allowance is spent before a
    baseline has run on all samples, it wins only below half of what it is compared with. With one
    sample, which the fit has seen, a fitted schedule is kept only below half of every baseline (a
    quarter where one is missing).

    Where the recipe's allowance does not last, baselines are missing in the rung's table; see
    :func:`otcache.planning.proven` for what becomes of a rung without any.
    """
    nfe = bench.allowance("candidates", bench.recipe.candidate_runs)
    few = len(screening_samples(len(bench.trajectories)))
    screens = [
        cost(baselines(c.schedule, bench.grid, bench.prediction)[UNIFORM], few) for c in contenders
    ]
    allowance = Allowance(nfe, screens)
    rungs = []
    with bench.stages.stage("comparing candidates", len(contenders)) as advance:
        for allowance.rung, contender in enumerate(contenders):
            rungs.append(Contest(bench, contender, allowance).settle())
            advance(allowance.rung + 1, len(contenders))
    return rungs


@dataclass
class Contest:
    """One rung: a fitted schedule and its baselines.

    Args:
        bench: what runs them.
        contender: the best fitted schedule.
        allowance: evaluations that may be spent.
    """

    bench: Workbench
    contender: Contender
    allowance: Allowance
    _logs: dict[Schedule, NDArray[np.float64]] = field(default_factory=dict)
    _errors: dict[Schedule, dict[str, Floats]] = field(default_factory=dict)

    def settle(self) -> Rung:
        """Measure what the allowance affords, and keep the best."""
        fitted = self.contender
        bench = self.bench
        every = baselines(fitted.schedule, bench.grid, bench.prediction)
        others = {name: every[name] for name in bench.recipe.baselines}
        self._logs[fitted.schedule] = fitted.logs  # reuse itself where nothing could be fitted
        self._errors[fitted.schedule] = dict(fitted.errors)
        n = len(fitted.logs)
        few = screening_samples(n)
        self._run([s for s in others.values() if s not in self._logs], few)
        self._run(self._threatening(), [i for i in range(n) if i not in few])
        known = {name: s for name, s in others.items() if s in self._logs}
        table = fitted.candidates | {name: self._entry(s) for name, s in known.items()}
        winner, schedule = self._best(known)
        name = bench.recipe.fallback
        safe = known.get(name) if name else None
        if name and safe and self._whole(safe) and not self._clearly_below(schedule, safe):
            winner, schedule = name, safe
        error = table[winner].error
        assert error is not None
        return Rung(schedule, error, winner, table, self._known(schedule))

    def _known(self, schedule: Schedule) -> dict[str, tuple[float | None, ...]]:
        """Return the errors of a schedule by metric, on the samples that it ran on."""
        ran = ~np.isnan(self._logs[schedule])
        kept = {name: found[ran] for name, found in self._errors[schedule].items()}
        return Measured.of(schedule.budget, kept).errors

    def _best(self, known: Mapping[str, Schedule]) -> tuple[str, Schedule]:
        """Return the lowest of the fitted schedule, if it may count as such, and the baselines known."""
        fitted = self.contender
        doubt = 1 if len(known) == len(self.bench.recipe.baselines) else 2
        best = 0.0
        if len(fitted.logs) == 1 and fitted.schedule.forecaster == "fitted" and known:
            best = doubt * math.log(UNSEEN)
        winner, schedule = fitted.name, fitted.schedule
        # Without a fallback what needs no calibration comes first, and the others must be clearly below.
        wary = not self.bench.recipe.fallback
        many = schedule.budget >= MANY * schedule.num_steps
        if wary and UNCALIBRATED in known and schedule.branch_weights and many:
            best = max(best, -math.log(GUIDED))
        for name in sorted(known, key=lambda name: wary and name != UNCALIBRATED):
            baseline = known[name]
            ratio, whole = self._ratio(baseline), self._whole(baseline)
            if ratio >= best or not (whole or ratio < math.log(SCREENED_ONLY)):
                continue
            if not wary or name == UNCALIBRATED or self._clearly_below(baseline, schedule):
                winner, schedule, best = name, baseline, ratio
        return winner, schedule

    def _whole(self, schedule: Schedule) -> bool:
        """Return whether a schedule ran on all samples."""
        return not np.isnan(self._logs[schedule]).any()

    def _clearly_below(self, schedule: Schedule, safe: Schedule) -> bool:
        """Return whether the fallback gives way to a schedule that is lower in mean."""
        a, b = self._logs[schedule], self._logs[safe]
        both = ~np.isnan(a) & ~np.isnan(b)
        a, b = a[both], b[both]
        if len(a) == 1 or schedule == safe or b.mean() - a.mean() >= math.log(SCREENED_OUT):
            return True
        return clearly_below(a, b)

    def _run(self, schedules: Sequence[Schedule], samples: Sequence[int]) -> None:
        """Run what the allowance covers, in one evaluation."""
        chosen = self.allowance.affords(
            {s: cost(s, len(samples)) for s in dict.fromkeys(schedules)}
        )
        if not chosen or not samples:
            return
        bench, n = self.bench, len(self.contender.logs)
        done = bench.evaluator.evaluate(
            chosen, objective=bench.fidelity, samples=samples if len(samples) < n else None
        )
        self.allowance.left -= done.nfe
        every = by_metric(done, bench.fidelity)
        for at, (schedule, logs) in enumerate(zip(chosen, log_errors(done.errors), strict=True)):
            self._logs.setdefault(schedule, np.full(n, np.nan))[list(samples)] = logs
            known = self._errors.setdefault(schedule, {})
            for name, found in every.items():
                known.setdefault(name, np.full(n, np.nan))[list(samples)] = found[at]

    def _threatening(self) -> list[Schedule]:
        """Return baselines below twice the best on what they were screened on, lowest first."""
        ratios = {s: self._ratio(s) for s in self._logs}
        limit = min(ratios.values()) + math.log(SCREENED_OUT)
        partly = [s for s, r in ratios.items() if r < limit and np.isnan(self._logs[s]).any()]
        return sorted(partly, key=lambda s: ratios[s])

    def _ratio(self, schedule: Schedule) -> float:
        """Return the mean log error over the fitted schedule's, on the samples that both ran on."""
        logs = self._logs[schedule]
        ran = ~np.isnan(logs)
        return float((logs[ran] - self.contender.logs[ran]).mean())

    def _entry(self, schedule: Schedule) -> Candidate:
        ratio, ran = self._ratio(schedule), int((~np.isnan(self._logs[schedule])).sum())
        return Candidate(self.contender.error * math.exp(ratio) if ratio < math.inf else None, ran)


@dataclass
class Allowance:
    """What is left of the evaluations for this stage, and what of it is held back.

    Where little is left, the largest rungs go without: baselines win where
    few steps are computed. So rungs spend from the smallest up, but for what it costs to screen
    ``UNIFORM`` at the larger ones, up to a half of the whole.

    Args:
        left: evaluations.
        screens: what screening ``UNIFORM`` costs at each rung, smallest first.
    """

    left: int
    screens: Sequence[int]
    rung: int = 0

    def __post_init__(self) -> None:
        sums = np.cumsum(self.screens) if len(self.screens) else np.zeros(0)
        self._held = [
            c if s <= HELD_BACK * self.left else 0 for c, s in zip(self.screens, sums, strict=True)
        ]

    @property
    def free(self) -> int:
        """Evaluations that the present rung may spend."""
        return self.left - sum(self._held[self.rung + 1 :])

    def affords(self, costs: Mapping[Schedule, int]) -> list[Schedule]:
        """Return the schedules that the allowance covers, up to the first that it does not."""
        sums = np.cumsum(list(costs.values()))
        return [s for s, total in zip(costs, sums, strict=True) if total <= self.free]


def baselines(
    schedule: Schedule, grid: Sequence[float] | Floats, prediction: str | None = None
) -> dict[str, Schedule]:
    """Return the five baselines of a schedule, by name; equal ones where its steps are uniform.

    Args:
        schedule: whose steps those of "planned" are.
        grid: s_0 .. s_N.
        prediction: what the denoiser predicts.
    """
    n, computed = schedule.num_steps, schedule.computed
    steps = {"planned": computed, "uniform": uniform_steps(n, schedule.budget)}
    schedules = {UNCALIBRATED: default_schedule(n, schedule.budget, grid, prediction)}
    for where, rule in (name.split(", ") for name in BASELINES if name != UNCALIBRATED):
        schedules[f"{where}, {rule}"] = Schedule(n, steps[where], rule)
    return {name: schedules[name] for name in BASELINES}


def screening_samples(num_samples: int) -> tuple[int, ...]:
    """Return a quarter of the samples, two at least where there are two, spread over prompts and seeds.

    Samples come prompt after prompt, so evenly spaced ones may all be of one seed: each next one is
    taken one further on.
    """
    few = min(num_samples, max(2, -(-num_samples // 4)))
    stride = num_samples // few
    return tuple(i * stride + i % stride for i in range(few))


def cost(schedule: Schedule, samples: int) -> int:
    """Return the denoiser evaluations of a run, at most: the steps before the first skipped one are known."""
    known = next((t for t, k in enumerate(schedule.computed) if k != t), schedule.budget)
    return (schedule.budget - known) * samples


def log_errors(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm of errors, from 1e-12 up; infinite where a run broke."""
    floored = np.where(np.isfinite(errors), np.maximum(errors, 1e-12), np.inf)
    return np.asarray(np.log(floored))


def candidate(logs: NDArray[np.float64]) -> Candidate:
    """Return the entry of a candidate with these logarithms of its error, one per sample."""
    error = float(np.exp(logs.mean()))
    return Candidate(error if np.isfinite(error) else None, len(logs))


def clearly_below(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    r"""Return whether a is below b in mean by more than one standard error of the paired difference.

    .. math:: \overline{a - b} < -\sqrt{\mathrm{var}(a - b) / n}

    False below two samples, and for an infinite a; True for a finite a and an infinite b.

    References:
        Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, section 3.4.3,
        for the one-standard-error rule.
    """
    if not np.isfinite(a).all() or len(a) < 2:
        return False
    if not np.isfinite(b).all():
        return True
    change = a - b
    return bool(change.mean() < -change.std(ddof=1) / np.sqrt(len(change)))
