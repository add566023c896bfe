"""Measure a pipeline, plan from what was measured, and make an image or a video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from otcache.cli.options import (
    Call,
    Executor,
    Json,
    Pipeline,
    Probe,
    arguments,
    at_least,
    integer,
    integers,
    names,
    numbers,
    steps_in_range,
    text,
)
from otcache.cli.output import show_facts
from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_core.policy import Policy


def calibrate(
    pipeline: Pipeline,
    steps: Annotated[
        int, typer.Option(help="num_inference_steps, as the pipeline will be called.")
    ],
    directory: Annotated[
        Path,
        typer.Option("--out", help="Folder of the calibration; an interrupted one is resumed."),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(help="One prompt a line; in a .jsonl file one JSON object of call arguments."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Comma-separated seeds of every prompt; by default one per prompt.")
    ] = "",
    effort: Annotated[
        str,
        typer.Option(
            help="quick (two samples, at the --budgets alone), standard, or thorough (weights refined); "
            "the options below change what it does."
        ),
    ] = "standard",
    budgets: Annotated[
        str,
        typer.Option(help="Comma-separated budgets to measure; by default those of the effort."),
    ] = "",
    batch_size: Annotated[int, typer.Option(help="Samples in one pipeline call.")] = 8,
    cost_model: Annotated[
        str | None,
        typer.Option(help="Installed cost model, which measures what skipping a span costs."),
    ] = None,
    proposals: Annotated[
        str | None, typer.Option(help="Comma-separated solvers that propose schedules.")
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="Solver that gives the steps between two schedules.")
    ] = None,
    anchor_search: Annotated[
        str | None, typer.Option(help="Solver that searches the anchor.")
    ] = None,
    refinement: Annotated[
        str | None,
        typer.Option(help="Solver that refines every rung, such as gauss-newton. Costs more."),
    ] = None,
    forecaster: Annotated[
        str | None,
        typer.Option(help="Forecaster of the rungs; fitted is the one whose weights are fitted."),
    ] = None,
    probe: Probe = None,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Measure a pipeline once; an interrupted calibration is resumed.

    With --refinement a finished one is refined.
    """
    from otcache.calibration.calibrate import calibrate as measure
    from otcache.calibration.efforts import recipe_of
    from otcache.pipelines import open_pipeline, read_samples
    from otcache.progress import Stages

    steps_in_range("--steps", steps)
    at_least("--batch-size", batch_size, 1)
    extra, chosen = arguments(call), integers("--seeds", seeds)
    stages: dict[str, Any] = {
        "cost_model": cost_model,
        "proposals": names(proposals),
        "interpolation": interpolation,
        "anchor_search": anchor_search,
        "refinement": refinement,
        "forecaster": forecaster,
    }
    read = read_samples(prompts) if prompts else None
    with Stages(not as_json).stage("opening the pipeline"):
        opened = open_pipeline(pipeline)
    calibration = measure(
        opened.target,
        opened.prompts if read is None else read,
        steps,
        chosen or None,
        recipe=replace(
            recipe_of(effort, budgets=integers("--budgets", budgets) or None),
            batch_size=batch_size,
            **{name: choice for name, choice in stages.items() if choice},
        ),
        directory=directory,
        progress=not as_json,
        probe=probe,
        **{**opened.call, **extra},
    )
    facts = {
        "calibration": str(directory),
        "nfe": calibration.nfe,
        "fidelity": calibration.fidelity,
    }
    show_facts(facts, as_json)


def plan(
    calibration: Annotated[Path, typer.Argument(help="Folder of a finished calibration.")],
    policy: Annotated[Path, typer.Option("--out", help="Policy file to write.")],
    solver: Annotated[
        str | None,
        typer.Option(help="Installed solver that chooses the steps; by default what was measured."),
    ] = None,
    pipe: Annotated[
        str | None,
        typer.Option(
            help="The pipeline that was calibrated: the solver's steps are measured on it, and taken where "
            "they are clearly better. Solvers that need the pipeline need this."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="With --pipe, samples as for calibrate; by default the demo's."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="With --pipe, seeds of every prompt.")] = "",
    budgets: Annotated[
        str, typer.Option(help="With --pipe, comma-separated; by default those of the ladder.")
    ] = "",
    batch_size: Annotated[
        int | None, typer.Option(help="With --pipe, samples in one call; by default 8.")
    ] = None,
    probe: Probe = None,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Plan every budget from a calibration; runs no network, but with --pipe."""
    from otcache.planning import BATCH_SIZE, check_pipe, fitted_policy
    from otcache.planning import plan as make
    from otcache.progress import Stages
    from otcache_core.calibration import Calibration

    with_pipe: dict[str, object] = {"--prompts": prompts, "--seeds": seeds, "--budgets": budgets}
    with_pipe |= {"--batch-size": batch_size, "--probe": probe, "--set": call}
    check_pipe(pipe, solver, with_pipe, "--pipe", "--solver")
    if pipe is None or solver is None:
        with Stages(not as_json).stage("planning"):
            planned = make(Calibration.load(calibration), solver=solver)
        more: dict[str, Any] = {"solver": f"{solver}, not measured"} if solver else {}
    else:
        from otcache.pipelines import open_pipeline, read_samples
        from otcache.planning_on_pipeline import PipelineSamples, searched
        from otcache_core.plugins import installed

        size = BATCH_SIZE if batch_size is None else batch_size
        at_least("--batch-size", size, 1)
        extra, measured = arguments(call), Calibration.load(calibration)
        opened = open_pipeline(pipe)
        samples = PipelineSamples(
            pipe=opened.target,
            prompts=read_samples(prompts) if prompts else opened.prompts,
            seeds=integers("--seeds", seeds) or None,
            budgets=integers("--budgets", budgets) or None,
            batch_size=size,
            probe=probe,
            progress=not as_json,
            call={**opened.call, **extra},
        )
        search = searched(measured, fitted_policy(measured), solver, installed(), samples)
        planned, more = search.policy, {"nfe": search.nfe, "kept": search.kept}
    planned.save(policy)
    facts = {"policy": str(policy), "budgets": [s.budget for s in planned.ladder]}
    show_facts(facts | more, as_json)


def budget_of(
    policy: Policy | None,
    budget: str | None,
    target: str | None,
    quality: str | None,
    steps: int | None = None,
) -> int:
    """Return the budget that was given, or that a policy has for a target or a quality.

    Raises:
        OtcacheError: if not one of the three was given, there is no policy to ask, or it does not know, since
            the run has other steps than were calibrated.
    """
    given = {"--budget": budget, "--target": target, "--quality": quality}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        got = " and ".join(named) or "none of them"
        raise OtcacheError(f"give one of --budget, --target and --quality, got {got}.")
    if budget is not None:
        return integer("--budget", budget)
    if policy is None:
        raise OtcacheError(f"{named[0]} asks a policy: give --policy too, or --budget.")
    own = policy.provenance.inference_steps or policy.num_steps
    if steps not in (None, own):
        raise OtcacheError(
            f"{named[0]} is of runs of {own} steps, which were calibrated, got --steps {steps}: "
            "omit --steps, or give --budget."
        )
    if quality is not None:
        return policy.for_quality(quality)
    metric, _, value = (target or "").partition("=")
    wanted = numbers("--target", value)
    if len(wanted) != 1:
        raise OtcacheError(
            expected("--target", target, "METRIC=NUMBER, as lpips=0.05 or speedup=4")
        )
    return policy.for_speedup(*wanted) if metric == "speedup" else policy.for_error(metric, *wanted)


def run(
    pipeline: Pipeline,
    prompt: Annotated[str, typer.Option(help="What to make.")],
    budget: Annotated[
        str | None, typer.Option(help="B, the number of computed steps; or --target, or --quality.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="The least budget for lpips=0.05, rmse=0.01 or psnr=35 on three of four samples, or for "
            "speedup=4; needs --policy."
        ),
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="lossless, high, balanced or fast; needs --policy.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file; without one nothing needs to be calibrated.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; otcache.png, or otcache.mp4 for a video."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="N; by default the policy's, or the pipeline's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on another step count or grid.")
    ] = False,
    cache_dtype: Annotated[
        str | None, typer.Option(help="Keep outputs in bf16, fp16 or fp32.")
    ] = None,
    cache_device: Annotated[
        str | None, typer.Option(help="Keep outputs in host memory: cpu.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--fps", help="Frames a second of a video; the demo's, or 16."),
    ] = None,
    probe: Probe = None,
    executor: Executor = None,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Make one image or video, by a policy or without calibration."""
    from otcache.media import check_name, run_once, save
    from otcache.pipelines import FRAMES_PER_SECOND, open_pipeline
    from otcache.progress import Stages
    from otcache.running import load_policy
    from otcache_core.contracts import CacheStorage
    from otcache_core.plugins import installed

    steps_in_range("--steps", steps)
    if rate is not None:
        at_least("--fps", rate, 0.1)
    extra, wanted = arguments(call), text("--prompt", prompt)
    registry, loaded = installed(), None if policy is None else load_policy(policy)
    number = budget_of(loaded, budget, target, quality, steps)
    if file is not None:
        check_name(file, registry)
    stages = Stages(not as_json)
    with stages.stage("opening the pipeline"):
        opened = open_pipeline(pipeline, registry)
    result = run_once(
        opened.target,
        loaded,
        number,
        wanted,
        seed=seed,
        num_steps=steps,
        strict=strict,
        call={**opened.call, **extra},
        storage=CacheStorage(cache_dtype, cache_device) if cache_dtype or cache_device else None,
        stages=stages,
        registry=registry,
        probe=probe,
        executor=executor,
    )
    rate = rate or opened.frames_per_second or FRAMES_PER_SECOND
    written = save(file, result.output, rate, registry)
    show_facts({"file": str(written), **result.report.to_dict()}, as_json)
