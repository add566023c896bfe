"""Compare methods on one pipeline: the demo, a comparison, and its report again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
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
    Runner,
    arguments,
    at_least,
    integers,
    names,
    steps_in_range,
)
from otcache.cli.output import (
    TABLE_WIDTH,
    show_facts,
    show_json,
    show_line,
    show_table,
    table_width,
)
from otcache.processes import LOCAL


def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the report; otcache-demo, or otcache-demo-video."),
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="Videos instead of images.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute or two; proves nothing.")
    ] = False,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Calibrate a shipped pipeline and compare otcache on held-out prompts."""
    from otcache.demo.preset import DemoSettings, run_demo
    from otcache.demo.showing import tables, write
    from otcache.progress import Stages

    settings = replace(DemoSettings.chosen(video=video, quick=quick), call=arguments(call))
    given_options = [f"--set {shlex.quote(argument)}" for argument in call or ()]
    command = " ".join(["otcache demo", *["--video"] * video, *["--quick"] * quick, *given_options])
    directory = directory or Path("otcache-demo-video" if video else "otcache-demo")
    outcome = run_demo(settings, directory, command=command, progress=not as_json)
    written = write(outcome, directory, Stages(not as_json))
    if as_json:
        show_json({"results": outcome.results.to_dict(), "files": [str(p) for p in written]})
        return
    show_table(tables(outcome), least=TABLE_WIDTH, highlight=False)
    show_line(f"report: {directory / 'report.html'}")


def compare(
    pipeline: Pipeline,
    directory: Annotated[
        Path, typer.Option("--out", help="Folder of the comparison; an interrupted one is resumed.")
    ],
    policy: Annotated[
        Path | None, typer.Option(help="Policy of otcache; calibrated here if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="N; the policy's, or 30.")] = None,
    budgets: Annotated[
        str | None, typer.Option(help="B, comma-separated; five shares of N by default.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Names, comma-separated; all by default.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Names, comma-separated; the usual ones by default.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Held-out prompts, one per line; tags after a tab.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration-prompts", help="Prompts to tune methods on.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Held-out prompts, at most.")] = 16,
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds of each prompt.")] = "1000",
    reference: Annotated[
        int,
        typer.Option(
            "--reference-steps", help="Steps that represent the ODE's solution; 0 omits it."
        ),
    ] = 500,
    batch_size: Annotated[int, typer.Option(help="Samples in one call if nothing is timed.")] = 16,
    rate: Annotated[
        float | None, typer.Option("--fps", help="Frames a second of videos; the demo's, or 16.")
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds one cell may take.")] = 600.0,
    workers: Annotated[int, typer.Option(help="Methods at a time.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another comparison in the folder.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Run this share of the methods, as 2/4; otcache report joins them."),
    ] = None,
    runner: Runner = LOCAL,
    probe: Probe = None,
    executor: Executor = None,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Compare methods on one pipeline, each in a process of its own, and write a report.

    An interrupted comparison is resumed; a finished one only writes its report again.
    """
    from otcache.comparison.job import Question
    from otcache.comparison.runner import Settings, run_shard
    from otcache.comparison.runner import compare as run_comparison
    from otcache.comparison.shards import Shard
    from otcache_core.plugins import installed

    _check(steps, reference, limit, workers)
    question = Question(
        pipeline=pipeline,
        policy=policy,
        num_steps=steps,
        budgets=integers("--budgets", budgets),
        prompts=prompts,
        calibration=calibration,
        samples=samples,
        seeds=integers("--seeds", seeds),
        call=arguments(call),
        reference_steps=reference,
        batch_size=batch_size,
        frames_per_second=rate,
        probe=probe,
        executor=executor,
    )
    settings = Settings(
        limit=limit,
        workers=workers,
        overwrite=force,
        retry=retry,
        progress=not as_json,
        command=shlex.join(["otcache", *sys.argv[1:]]),
        metrics=names(metrics),
        runner=runner,
    )
    registry = installed()
    share = None if shard is None else Shard.parse(shard)
    job = question.job(registry)
    if share is not None:
        mine = run_shard(job, names(methods), directory, share, settings, registry=registry)
        show_facts({"methods": mine if as_json else ", ".join(mine)}, as_json)
        for method, reason in mine.items():
            if reason and not as_json:
                show_line(f"could not be run: {method}: {reason}")
        return
    results, written = run_comparison(job, names(methods), directory, settings, registry=registry)
    _show_results(results, written, as_json, names(metrics))


def _check(steps: int | None, reference: int, limit: float, workers: int) -> None:
    steps_in_range("--steps", steps)
    steps_in_range("--reference-steps", reference, least=0)
    at_least("--limit", limit, 1)
    at_least("--workers", workers, 1)


def report(
    directories: Annotated[
        list[Path],
        typer.Argument(
            help="Folder that compare or demo wrote; or the folders of all shards of one."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of joined shards; by default the first one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a comparison again, or that of its shards joined; runs no pipeline."""
    from otcache.comparison.runner import join
    from otcache.progress import Stages
    from otcache.report import rebuild

    stages = Stages(not as_json)
    if len(directories) == 1 and out is None and not _is_shared(directories[0]):
        written = [str(path) for path in rebuild(directories[0], stages=stages)]
        facts = {"files": written} if as_json else {"report": directories[0] / "report.html"}
        show_facts(facts, as_json)
        return
    _show_results(*join(directories, out or directories[0], stages=stages), as_json)


def _is_shared(directory: Path) -> bool:
    """Whether a folder has the work of shares, so that its report is made of what is finished now."""
    from otcache.comparison.folder import Folder

    plan = Folder(directory).plan
    return plan is not None and plan.shared


def _show_results(
    results: Any, written: list[Path], as_json: bool, metrics: Sequence[str] = ()
) -> None:
    if as_json:
        show_json({"results": results.to_dict(), "files": [str(path) for path in written]})
        return
    from otcache.report.analysis import totals
    from otcache.report.terminal import summary_table

    width, asked = table_width(), {_short(name) for name in metrics}
    columns = [n for n in (*results.metrics, *totals(results)) if _short(n) in asked]
    show_table(summary_table(results, width, columns), least=width)
    for gap in results.missing:
        at = "" if gap.budget is None else f" at B = {gap.budget}"
        show_line(f"not run: {gap.method}{at}: {gap.reason}")
    show_line(f"report: {written[0]}")


def _short(name: str) -> str:
    """Return a metric's name without a path, and without the distribution that not every column has."""
    return name.partition("=")[0].rpartition("/")[2]
