"""The verb that makes many samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otcache.cli.measure import budget_of
from otcache.cli.options import (
    Call,
    Executor,
    Json,
    Pipeline,
    Probe,
    Runner,
    arguments,
    at_least,
    integers,
    steps_in_range,
)
from otcache.cli.output import show_facts, show_line
from otcache.processes import LOCAL


def generate(
    pipeline: Pipeline,
    prompts: Annotated[
        Path, typer.Option(help="File of prompts, one per line, or JSON lines with call arguments.")
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out", help="Folder, or a URL that fsspec opens; an interrupted one is resumed."
        ),
    ],
    budget: Annotated[
        str | None, typer.Option(help="B, the number of computed steps; or --target, or --quality.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="The least budget for lpips=0.05 or speedup=4, as of run; needs --policy."
        ),
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="lossless, high, balanced or fast; needs --policy.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file; without one nothing needs to be calibrated.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="N; by default the policy's, or the pipeline's own.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated seeds of each prompt; by default the number of its line, from 0."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples in one call, always the same ones.")] = 1,
    workers: Annotated[
        int, typer.Option(help="Processes, each with a pipeline of its own; 0: this process.")
    ] = 1,
    runner: Runner = LOCAL,
    limit: Annotated[float, typer.Option(help="Seconds one call may take.")] = 600.0,
    force: Annotated[
        bool, typer.Option("--force", help="Make everything again in a folder of another job.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what was set aside.")] = False,
    rate: Annotated[
        float | None,
        typer.Option("--fps", help="Frames a second of a video; the demo's, or 16."),
    ] = None,
    probe: Probe = None,
    executor: Executor = None,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Make every prompt of a file, with a manifest; an interrupted generation is resumed."""
    from otcache.generation.job import Job
    from otcache.generation.manifest import FAILED
    from otcache.generation.runner import generate as make
    from otcache.progress import Stages
    from otcache.running import load_policy

    steps_in_range("--steps", steps)
    at_least("--workers", workers, 0)
    at_least("--batch-size", batch_size, 1)
    at_least("--limit", limit, 1)
    if rate is not None:
        at_least("--fps", rate, 0.1)
    loaded = None if policy is None else load_policy(policy)
    job = Job(
        pipeline,
        "",
        budget_of(loaded, budget, target, quality, steps),
        integers("--seeds", seeds),
        steps,
        call=arguments(call),
        batch_size=batch_size,
        frames_per_second=rate or 0.0,
        probe=probe or "",
        executor=executor or "",
    )
    done = make(
        job,
        prompts,
        out,
        policy=policy,
        workers=workers,
        runner=runner,
        limit=limit,
        overwrite=force,
        retry=retry,
        stages=Stages(not as_json),
    )
    failed = [{"sample": f.sample, "seed": f.seed, "reason": f.reason} for f in done.failed]
    if as_json:
        show_facts({"made": done.made, "failed": failed, "manifest": done.manifest}, as_json)
        return
    show_facts({"made": str(done.made), "manifest": done.manifest}, as_json)
    for one in failed[:SHOWN]:
        show_line(f"prompt {one['sample']}, seed {one['seed']} was set aside: {one['reason']}")
    if failed:
        show_line(f"{len(failed)} set aside are in {FAILED}; --retry tries them again.")


#: Samples set aside that are printed.
SHOWN = 10
