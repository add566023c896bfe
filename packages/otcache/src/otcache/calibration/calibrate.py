"""Measure a pipeline once: the public call, and what it keeps between rungs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from otcache.attempts import attemptable
from otcache.calibration import stages as stage
from otcache.calibration.contest import (
    UNIFORM,
    UNSEEN,
    Job,
    Ledger,
    Workbench,
    clearly_below,
    compare,
    cost,
    log_errors,
    measured,
    settle_ladder,
)
from otcache.calibration.gaps import interpolated
from otcache.calibration.recipe import FITTED, Recipe, check_choices, name_of
from otcache.calibration.record import MOST_STEPS, reproduced, request_of
from otcache.calibration.store import Store, StoredEvaluator, digest
from otcache.inspection import candidate_table, price
from otcache.planning import doubtful
from otcache.progress import Stages
from otcache.running import choose
from otcache_core import OtcacheError, Schedule, __version__
from otcache_core.calibration import Calibration, Rung
from otcache_core.errors import expected
from otcache_core.notices import NOT_FITTED, not_fitted, notify, once
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.samples import Sample, content
from otcache_core.transport import uniform_steps


@attemptable
@once()
def calibrate(
    target: Any,
    prompts: Iterable[Sample],
    num_inference_steps: int,
    seeds: Iterable[int] | None = None,
    *,
    recipe: Recipe | None = None,
    directory: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    registry: Registry | None = None,
    probe: str | None = None,
    **call: Any,
) -> Calibration:
    """Measure a pipeline: everything that needs it is done here, once.

    1. *Record* a full run of every prompt and seed, and *replay* its outputs through the sampler with no
       evaluation: what is measured later is what was recorded. Where a sample depends on what is beside
       it in the batch, as noise drawn for the whole batch does, it is recorded again one sample a call.
    2. *Reference*: measure how deviations grow to the end of the run, which prices every span;
       lexicographic minimax and a second-order DP propose schedules of B_r steps, the better one by
       true error is kept.
    3. *Anchor*: search the perceptual error of whole runs at the extreme budget B_a.
    4. *Ladder*: interpolate both to a ladder of budgets and fit the forecast weights in closed loop;
       at small budgets in several roundings, of which the best by true error is kept.
    5. *Candidates*: run reuse and linear forecasts, on the same steps and on uniform ones, and keep
       the best of each budget: no rung is worse than the simplest rules (:mod:`.contest`).
    6. *Gaps*: fit budgets between rungs at which interpolation cannot be trusted.
    7. *Refinement*, with ``Recipe(refinement="gauss-newton")``: a step on the weights of each rung.

    What does the work of the stages 2 to 4 and 7 may be chosen by the recipe.

    Args:
        target: a diffusers pipeline or ``otcache.loop(...)``.
        prompts: at least one; eight are a good number. On four the clip demo's held-out error at B = 15
            of 30 is ten times that on eight (docs/cache-storage.md, docs/demo-video.md). A sample may also
            be a mapping of call arguments, as ``{"prompt": "a cat", "image": image}`` or
            ``{"class_labels": 207}``: docs/inputs.md.
        num_inference_steps: steps asked for, as the pipeline will be run; N is what its sampler makes
            of them, and what budgets count (Heun: 2n - 1, PNDM: n + 1, a strength of 0.7: 0.7 n, most
            others: n). The first run tells.
        seeds: every prompt is sampled with every seed; None gives each prompt a seed of its own, 0, 1, ...
            Weights are measured on noise that they were not fitted to, so there should be several.
        recipe: budgets, trials and objective.
        directory: keep finished work and large recorded runs here; an interrupted calibration called
            again with the same arguments goes on from there to the same result.
        overwrite: start over where the folder holds another calibration, instead of refusing.
        progress: show bars on standard error.
        registry: where plugins come from; None: the installed ones.
        probe: name of a probe plugin, where not the first that supports the target.
        throw: False returns an OtcacheError instead of raising it, as :func:`otcache.attempt` does.
        call: further arguments of the pipeline call, such as ``height`` and ``guidance_scale``, the same
            for all samples; a list of negative prompts, one a prompt, goes with prompts.

    Returns:
        The calibration, for :func:`otcache.plan`.

    Raises:
        OtcacheError: if an argument is of the wrong kind or clashes with another, which it names, no
            installed plugin can record the target, or a run of the same seed does not come out the same.
    """
    registry = _of_kind("registry", installed() if registry is None else registry, Registry)
    asked = integer("num_inference_steps", num_inference_steps, 1, MOST_STEPS)
    recipe = _of_kind("recipe", Recipe() if recipe is None else recipe, Recipe)
    check_choices(recipe, registry)
    folder = None if directory is None else Path(_of_kind("directory", directory, (str, Path)))
    if directory == "":  # as of a variable that is not set; Path would make it the current folder
        raise OtcacheError(expected("directory", "", "the name of a folder", "'.' is this one."))
    keep, chosen = recipe.keep, recipe.identity if folder is not None else None
    if folder is not None and keep.folder is None:
        keep = replace(keep, folder=folder)
    recorder = choose(registry, "probes", target, probe)
    request = request_of(recorder, target, prompts, seeds, asked, call, recipe.batch_size)
    request = replace(request, keep=keep)
    provenance = recorder.provenance(target, request)
    samples = content(request.prompts)
    provenance["prompts_digest"] = digest([samples, list(request.seeds)])
    show, store = Stages(progress), None
    if folder is not None:
        with show.stage("reading the weights"):
            weights = recorder.fingerprint(target)
        identity = {
            "provenance": provenance,
            "weights": weights,
            "recipe": chosen,
            "probe": f"{type(recorder).__module__}.{type(recorder).__qualname__}",
            "call": content(request.call),
            "otcache": __version__,
        }
        share = keep.share(1, len(request.prompts)).memory_bytes
        store = Store(folder, identity, overwrite=overwrite, map_above=share)
    ledger = Ledger()
    job = Job(recorder, target, request, store, show, ledger, lambda n: recipe.resolve(n, asked))
    measured = reproduced(job)
    trajectories, evaluator = measured.trajectories, measured.evaluator
    n = trajectories[0].num_steps
    settings = recipe.resolve(n, asked)
    if n != asked:  # Heun makes 2n - 1 of n steps asked for, PNDM n + 1, a strength fewer
        provenance |= {"num_steps": n, "inference_steps": asked}
    bench = Workbench(
        settings,
        registry,
        evaluator,
        trajectories,
        show,
        ledger,
        objective=_offered("objective", settings.objective, "lpips", evaluator),
        fidelity=_offered("fidelity", settings.fidelity, "rmse", evaluator),
        fit=not measured.unfitted and settings.forecaster == FITTED,
    )
    if measured.unfitted and settings.forecaster == FITTED:
        notify(not_fitted(measured.unfitted), fact=NOT_FITTED)
    calibration = replace(_measure(bench, provenance), impulses=measured.known_impulses)
    calibration = fill_gaps(bench, interpolated(bench, calibration))
    if settings.refinement is not None and (bench.fit or settings.forecaster != FITTED):
        ladder = tuple(stage.refine_ladder(bench, calibration.ladder))
        calibration = replace(calibration, ladder=ladder, nfe=dict(ledger.nfe))
        calibration = interpolated(bench, calibration)
    if measured.sampler and any(r.schedule.forecaster == "fitted" for r in calibration.ladder):
        show.say(f"forecast weights were fitted through the sampler's {measured.sampler}.")
    show.table(candidate_table(calibration))
    show.say(_price(calibration))
    if folder is not None:
        calibration.save(folder)
    return calibration


def _measure(bench: Workbench, provenance: dict[str, Any]) -> Calibration:
    costs = stage.price_spans(bench)
    gram = stage.mean_gram(bench.trajectories)
    planner = stage.Planner(bench, costs.costs, gram)
    reference = _reference(bench, planner)
    warm = list(planner.plan(bench.recipe.anchor_budget or 1).values())
    anchor = stage.find_anchor(bench, reference, warm, planner.problem)
    ladder = settle_ladder(bench, stage.climb_ladder(bench, anchor, reference, planner))
    return Calibration(
        provenance=provenance,
        num_steps=bench.num_steps,
        grid=bench.trajectories[0].grid,
        samples=tuple(t.label for t in bench.trajectories),
        gram=gram,
        span_costs=costs.costs,
        span_costs_nfe=costs.nfe,
        span_costs_samples=costs.samples,
        anchor=anchor,
        reference=reference,
        ladder=tuple(ladder),
        nfe=dict(bench.ledger.nfe),
        fidelity=bench.fidelity,
        interpolation=name_of(bench.recipe.interpolation),
    )


def _reference(bench: Workbench, planner: stage.Planner) -> Schedule:
    bench.ledger.stage = "reference"
    budget = bench.recipe.reference_budget
    assert budget is not None
    plans: dict[str, Schedule] = planner.plan(budget)
    if not plans:
        names = ", ".join(map(name_of, bench.recipe.proposals))
        raise OtcacheError(
            f"no solver of Recipe.proposals ({names}) finds a schedule of {budget} steps: "
            "add 'second-order' to them."
        )
    with bench.stages.stage("choosing the reference", 1) as advance:
        best = compare(bench, plans).schedule
        advance(1, 1)
    return best


def _of_kind(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    if isinstance(value, kind):
        return value
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(f"a {known.__name__}" for known in kinds)
    raise OtcacheError(expected(name, type(value).__name__, wanted))


def _offered(what: str, asked: str | None, wished: str, evaluator: StoredEvaluator) -> str:
    """The objective asked for, else the one wished for, else the evaluator's default."""
    offered = evaluator.objectives
    if asked is None:
        return wished if wished in offered else offered[0]
    if asked not in offered:
        raise OtcacheError(expected(what, asked, f"one of {', '.join(offered)}"))
    return asked


def _price(calibration: Calibration) -> str:
    runs = sum(calibration.nfe.values()) / calibration.num_steps
    per_sample = runs / len(calibration.samples)
    return f"calibration cost {price(calibration.nfe)} = {runs:.0f} full runs, {per_sample:.1f} a sample"


#: The candidate whose steps are those that the policy interpolates.
BETWEEN = "between rungs"


def fill_gaps(bench: Workbench, calibration: Calibration) -> Calibration:
    """Stage 5: fit the interpolated steps of doubtful budgets, and compare them with uniform reuse.

    Doubtful is a budget whose interpolated schedule does to the recorded outputs more than half of what
    uniform reuse does (:func:`~otcache.planning.doubtful`). From the smallest up, while the recipe's
    allowance lasts; what is left doubtful then is uniform reuse in the policy. Each new rung counts for
    the budgets that follow.
    """
    bench.ledger.stage = "gaps"
    bench.ledger.spend(0)
    n = len(bench.trajectories)
    left = int(bench.recipe.gap_runs * bench.num_steps * n)
    tried: set[int] = set()
    total = len(doubtful(calibration))
    with bench.stages.stage("measuring between rungs", total) as advance:
        while waiting := [(b, s) for b, s in doubtful(calibration).items() if b not in tried]:
            budget, schedule = waiting[0]
            tried.add(budget)
            spent = cost(schedule, n) + cost(_uniform(schedule), n)
            if spent <= left:
                left -= spent
                calibration = _with(calibration, _rung(bench, schedule))
                calibration = interpolated(bench, calibration)
            advance(min(len(tried), total), total)
        advance(total, total)
    return replace(calibration, nfe=dict(bench.ledger.nfe))


def _rung(bench: Workbench, schedule: Schedule) -> Rung:
    """Fit the steps of a schedule, and keep it where it is clearly below uniform reuse."""
    fitted, uniform = compare(bench, {BETWEEN: schedule}), _uniform(schedule)
    logs = log_errors(bench.evaluator.evaluate([uniform], objective=bench.fidelity).errors)[0]
    entry = measured(logs)
    table = fitted.candidates | {UNIFORM: entry}
    below = clearly_below(fitted.logs, logs)
    if len(logs) == 1:  # which the fit has seen
        below = bool(fitted.logs.mean() < logs.mean() - 2 * math.log(UNSEEN))
    if below or entry.error is None:
        return Rung(fitted.schedule, fitted.error, BETWEEN, table)
    return Rung(uniform, entry.error, UNIFORM, table)


def _uniform(schedule: Schedule) -> Schedule:
    return Schedule(schedule.num_steps, uniform_steps(schedule.num_steps, schedule.budget))


def _with(calibration: Calibration, rung: Rung) -> Calibration:
    rungs: Sequence[Rung] = (*calibration.ladder, rung)
    return replace(calibration, ladder=tuple(sorted(rungs, key=lambda r: r.schedule.budget)))
