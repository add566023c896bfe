"""Measure a pipeline once: the public call, which goes through the stages and keeps what they measured."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from otcache.attempts import attemptable
from otcache.calibration.contest import Workbench
from otcache.calibration.efforts import cost_text, recipe_of
from otcache.calibration.gaps import fill_gaps, interpolated
from otcache.calibration.recipe import FITTED, Recipe, check_choices
from otcache.calibration.record import (
    MOST_STEPS,
    NfeCount,
    RecordJob,
    record_and_replay,
    request_of,
)
from otcache.calibration.stages import measure, refine_ladder
from otcache.calibration.store import Store
from otcache.inspection import candidate_table, nfe_text
from otcache.progress import Stages
from otcache.running import choose
from otcache_core import OtcacheError, __version__
from otcache_core.calibration import Calibration
from otcache_core.contracts import FeatureProbe, SampleRequest
from otcache_core.errors import expected
from otcache_core.loop import Loop
from otcache_core.notices import NOT_FITTED, not_fitted, notify, once
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.samples import Sample, content, digest


@attemptable
@once()
def calibrate(
    target: Any,
    prompts: Iterable[Sample],
    num_inference_steps: int,
    seeds: Iterable[int] | None = None,
    *,
    effort: str | None = None,
    budgets: Iterable[int] | None = None,
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
       it in the batch, as noise drawn for the whole batch does, it is recorded again one sample per call.
    2. *Reference*: measure how deviations grow to the end of the run, which gives the cost of every span;
       lexicographic minimax and a second-order DP propose schedules of B_r steps, the better one by
       true error is kept.
    3. *Anchor*: search the perceptual error of whole runs at the extreme budget B_a.
    4. *Ladder*: interpolate both to a ladder of budgets and fit the forecast weights in closed loop;
       at small budgets in several roundings, of which the best by true error is kept.
    5. *Candidates*: run reuse and linear forecasts, on the same steps and on uniform ones, and what needs
       no calibration, and keep the best of each budget: no rung is worse than these (:mod:`.contest`).
    6. *Gaps*: fit budgets between rungs at which interpolation cannot be trusted.
    7. *Refinement*, with ``Recipe(refinement="gauss-newton")``: a step on the weights of each rung.

    The recipe chooses what does the work of the stages 2 to 4 and 7.

    Args:
        target: a diffusers pipeline or ``otcache.loop(...)``.
        prompts: at least one; eight are a good number, and two do for a quick calibration. Of fewer a
            standard one measures each with several seeds, so that there are eight samples. A sample may also
            be a mapping of call arguments, as ``{"prompt": "a cat", "image": image}`` or
            ``{"class_labels": 207}``: docs/inputs.md.
        num_inference_steps: steps, as the pipeline will be called; N is what its sampler makes
            of them, and what budgets count (Heun: 2n - 1, PNDM: n + 1, a strength of 0.7: 0.7 n, most
            others: n), known from the first run.
        seeds: every prompt is sampled with every seed; None gives each prompt one of its own, 0, 1, ..., or
            several. Weights are measured on noise that they were not fitted to: there should be several.
        effort: ``quick`` (at most 6 full runs in all for one budget up to N/3: two samples, the first ones,
            at ``budgets`` alone), ``standard`` (the default: 17 to 21 full runs a sample, every budget) or
            ``thorough`` (with refined weights, up to 40 more). Names of recipes:
            :data:`otcache.calibration.efforts.EFFORTS`.
        budgets: the recipe's ladder, N/3 in a quick calibration; others also measure anchor and reference.
        recipe: every choice by itself, instead of an effort.
        directory: keep finished work and large recorded runs here; an interrupted calibration called
            again with the same arguments goes on from there to the same result. One folder may serve all
            calibrations of a pipeline: what was measured of the same samples is not measured again
            (recorded samples run once more, since the evaluator needs more than a folder holds).
        overwrite: start over where the folder holds work of another pipeline, instead of refusing.
        progress: show bars on standard error.
        registry: where plugins come from; None: the installed ones.
        probe: name of a probe plugin, where not the first that supports the target.
        throw: False returns an OtcacheError instead of raising it, as :func:`otcache.attempt` does.
        call: further arguments of the pipeline call, such as ``height`` and ``guidance_scale``, the same
            for all samples; a list of negative prompts, one per prompt, goes with prompts.

    Returns:
        The calibration, for :func:`otcache.plan`.

    Raises:
        OtcacheError: if an argument is of the wrong kind or clashes with another, which it names, no
            installed plugin can record the target, or a run of the same seed does not come out the same.
    """
    registry = _of_kind("registry", installed() if registry is None else registry, Registry)
    steps = integer("num_inference_steps", num_inference_steps, 1, MOST_STEPS)
    recipe = recipe_of(effort, recipe, budgets)
    check_choices(recipe, registry)
    folder = None if directory is None else Path(_of_kind("directory", directory, str, Path))
    if directory == "":  # as of a variable that is not set; Path would make it the current folder
        raise OtcacheError(expected("directory", "", "the name of a folder", "'.' is this one."))
    recorder = choose(registry, "probes", target, probe)
    least = recipe.least_samples
    request = request_of(recorder, target, prompts, seeds, steps, call, recipe.batch_size, least)
    measured = slice(recipe.samples)
    request = replace(request, prompts=request.prompts[measured], seeds=request.seeds[measured])
    if recipe.keep.folder is None:
        recipe = replace(recipe, keep=replace(recipe.keep, folder=folder))
    request = replace(request, keep=recipe.keep)
    provenance = recorder.provenance(target, request)
    show, spent, store = Stages(progress), NfeCount(), None
    if folder is not None:
        identity = _identity(recorder, target, request, dict(provenance), show)
        share = request.keep.share(1, len(request.prompts)).memory_bytes
        store = Store(folder, identity, overwrite=overwrite, map_above=share)
    provenance["prompts_digest"] = digest([content(request.prompts), list(request.seeds)])
    samples = len(request.prompts)

    def begun(n: int, seconds: float | None) -> None:
        resolved = recipe.resolve(n, steps)
        if seconds is not None:
            show.say(cost_text(resolved, n, samples, seconds))

    with suppress(OtcacheError):  # N is another one, as Heun's 2n - 1: the first run shows it
        show.say(cost_text(recipe.resolve(steps), steps, samples))
    job = RecordJob(recorder, target, request, store, show, spent, begun)
    runs = record_and_replay(job)
    n = runs.trajectories[0].num_steps
    if n != steps:  # Heun makes 2n - 1 of n steps, PNDM n + 1, a strength fewer
        provenance |= {"num_steps": n, "inference_steps": steps}
    grid = target.grid_for(n) if isinstance(target, Loop) else runs.trajectories[0].grid
    known = tuple(grid.tolist()) if np.isfinite(grid).all() else ()
    resolved, predicted = recipe.resolve(n, steps), provenance["prediction_type"]
    bench = Workbench(resolved, registry, runs, show, spent, known, predicted)
    if runs.unfitted and recipe.forecaster == FITTED:
        notify(not_fitted(runs.unfitted), key=NOT_FITTED)
    calibration = fill_gaps(bench, measure(bench, provenance))
    if recipe.refinement is not None and (bench.fit or recipe.forecaster != FITTED):
        ladder = tuple(refine_ladder(bench, calibration.ladder))
        calibration = replace(calibration, ladder=ladder, nfe=dict(spent.nfe))
        calibration = interpolated(bench, calibration)
    if progress:
        _show(calibration, runs.sampler, show)
    if folder is not None:
        calibration.save(folder)
    return calibration


def _of_kind(name: str, value: Any, *kinds: type) -> Any:
    if isinstance(value, kinds):
        return value
    wanted = " or ".join(f"a {kind.__name__}" for kind in kinds)
    raise OtcacheError(expected(name, type(value).__name__, wanted))


def _identity(
    probe: FeatureProbe,
    target: Any,
    request: SampleRequest,
    provenance: dict[str, Any],
    show: Stages,
) -> dict[str, Any]:
    """Return facts that must be the same for stored work to be used again; which samples are not."""
    keep = request.keep
    with show.stage("reading the weights"):
        weights = probe.fingerprint(target)
    return {
        "provenance": provenance,
        "weights": weights,
        "sketch": None if keep.coordinates is None else [keep.coordinates, keep.seed],
        "probe": f"{type(probe).__module__}.{type(probe).__qualname__}",
        "call": content(request.call),
        "otcache": __version__,
    }


def _show(calibration: Calibration, sampler: str, show: Stages) -> None:
    if sampler and any(r.schedule.forecaster == "fitted" for r in calibration.ladder):
        show.say(f"forecast weights were fitted through the sampler's {sampler}.")
    show.table(candidate_table(calibration))
    runs = sum(calibration.nfe.values()) / calibration.num_steps
    each = runs / len(calibration.samples)
    cost = f"{nfe_text(calibration.nfe)} = {runs:.0f} full runs, {each:.1f} a sample"
    show.say(f"calibration cost {cost}")
