"""Make an image or a video by a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    steps_in_range,
    text,
)
from otcache.cli.output import show_facts


def run(
    pipeline: Pipeline,
    policy: Annotated[Path, typer.Option(help="Policy file.")],
    budget: Annotated[str, typer.Option(help="B, the number of computed steps.")],
    prompt: Annotated[str, typer.Option(help="What to make.")],
    file: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; otcache.png, or otcache.mp4 for a video."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="N; the policy's by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse another step count or grid.")
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
    """Make one image or video by a policy."""
    from otcache.opening import FRAMES_PER_SECOND, open_pipeline
    from otcache.progress import Stages
    from otcache.running import load_policy
    from otcache.saving import check_name, save
    from otcache.single import run_once
    from otcache_core.contracts import CacheStorage
    from otcache_core.plugins import installed

    steps_in_range("--steps", steps)
    if rate is not None:
        at_least("--fps", rate, 0.1)
    number, given, wanted = integer("--budget", budget), arguments(call), text("--prompt", prompt)
    registry, plan_ = installed(), load_policy(policy)
    if file is not None:
        check_name(file, registry)
    stages = Stages(not as_json)
    with stages.stage("opening the pipeline"):
        opened = open_pipeline(pipeline, registry)
    result = run_once(
        opened.target,
        plan_,
        number,
        wanted,
        seed=seed,
        num_steps=steps,
        strict=strict,
        call={**opened.call, **given},
        storage=CacheStorage(cache_dtype, cache_device) if cache_dtype or cache_device else None,
        stages=stages,
        registry=registry,
        probe=probe,
        executor=executor,
    )
    rate = rate or opened.frames_per_second or FRAMES_PER_SECOND
    written = save(file, result.made, rate, registry)
    show_facts({"file": str(written), **result.report.to_dict()}, as_json)
