"""The command line: the same verbs as the library."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from otcache_core import OtcacheError
from otcache_core.errors import OtcacheNotice

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure a diffusion pipeline once, plan its cache schedule for any budget, run it without a trace.",
)
plugins_app = typer.Typer(no_args_is_help=True, help="Installed plugins.")
app.add_typer(plugins_app, name="plugins")
out = Console()
TABLE_WIDTH = 104
INTERRUPTED = 130
#: What --set cannot name, as the verbs' own options or otcache itself give it to the pipeline.
OWN = {
    "prompt": "prompts come from --prompt or --prompts, or the demo",
    "prompts": "prompts come from --prompt or --prompts, or the demo",
    "num_inference_steps": "the number of steps comes from --steps, the policy or the demo",
    "generator": "noise comes from --seed or --seeds",
    "seeds": "noise comes from --seed or --seeds",
    "output_type": "otcache decodes what it needs",
    "return_dict": "otcache reads what it needs",
} | dict.fromkeys(
    ("target", "recipe", "directory", "overwrite", "progress", "registry"),
    "it is no argument of a pipeline call",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
Pipeline = Annotated[
    str,
    typer.Argument(
        help="'demo', 'demo:video', a folder saved by save_pretrained, or module:function that makes one."
    ),
]
Call = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Argument of the pipeline call, NAME=VALUE (JSON); may be repeated."
    ),
]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options before the verb."""


@app.command()
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the report; otcache-demo, or otcache-demo-video."),
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="Clips instead of pictures.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute or two; proves nothing.")
    ] = False,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Calibrate a shipped pipeline and compare otcache on held-out prompts."""
    from otcache.demo import DemoSettings, run_demo
    from otcache.demo.showing import show, write

    settings = replace(DemoSettings.chosen(video=video, quick=quick), call=_arguments(call))
    told = [f"--set {shlex.quote(argument)}" for argument in call or ()]
    command = " ".join(["otcache demo", *["--video"] * video, *["--quick"] * quick, *told])
    directory = directory or Path("otcache-demo-video" if video else "otcache-demo")
    kept = directory / "-".join(["calibration", *["video"] * video, *["quick"] * quick])
    outcome = run_demo(settings, kept, command=command, progress=not as_json)
    written = write(outcome, directory)
    if as_json:
        _print_json({"results": outcome.results.to_dict(), "files": [str(p) for p in written]})
        return
    show(outcome, Console(width=max(TABLE_WIDTH, out.width)))
    _line(f"report: {directory / 'report.html'}")


@app.command()
def calibrate(
    pipeline: Pipeline,
    steps: Annotated[int, typer.Option(help="N, as the pipeline will be run.")],
    directory: Annotated[
        Path, typer.Option("--out", help="Folder of the calibration; resumed if begun.")
    ],
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt a line.")] = None,
    seeds: Annotated[
        str, typer.Option(help="Comma-separated seeds of every prompt; by default one a prompt.")
    ] = "",
    batch_size: Annotated[int, typer.Option(help="Samples in one pipeline call.")] = 8,
    refine: Annotated[
        bool, typer.Option("--refine", help="Refine the weights on the final error; dearer.")
    ] = False,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Measure a pipeline once; an interrupted calibration goes on where it stopped.

    With --refine a finished one goes on too.
    """
    from otcache.calibrate import calibrate as measure
    from otcache.opening import open_pipeline, read_prompts
    from otcache.recipe import Recipe

    read = read_prompts(prompts) if prompts else None
    opened = open_pipeline(pipeline)
    texts = opened.prompts if read is None else read
    calibration = measure(
        opened.target,
        texts,
        steps,
        [_integer("--seeds", s) for s in seeds.split(",")] if seeds else None,
        recipe=Recipe(batch_size=batch_size, refine=refine),
        directory=directory,
        progress=not as_json,
        **opened.call,
        **_arguments(call),
    )
    facts = {
        "calibration": str(directory),
        "nfe": calibration.nfe,
        "objective": calibration.objective,
    }
    _show(facts, as_json)


@app.command()
def plan(
    calibration: Annotated[Path, typer.Argument(help="Folder of a finished calibration.")],
    policy: Annotated[Path, typer.Option("--out", help="Policy file to write.")],
    as_json: Json = False,
) -> None:
    """Plan every budget from a calibration; runs no network."""
    from otcache.planning import plan as make
    from otcache_core.calibration import Calibration

    made = make(Calibration.load(calibration))
    made.save(policy)
    _show({"policy": str(policy), "budgets": [s.budget for s in made.ladder]}, as_json)


@app.command()
def run(
    pipeline: Pipeline,
    policy: Annotated[Path, typer.Option(help="Policy file.")],
    budget: Annotated[str, typer.Option(help="B, the number of computed steps.")],
    prompt: Annotated[str, typer.Option(help="What to make.")],
    file: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; otcache.png, or otcache.mp4 for a clip."),
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
        typer.Option("--fps", help="Frames a second of a clip; the demo's, or 16.", min=0.1),
    ] = None,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Make one picture or clip by a policy."""
    from otcache.arena.assembly import FRAMES_PER_SECOND
    from otcache.opening import open_pipeline
    from otcache.running import load_policy
    from otcache.saving import check_name, save
    from otcache.single import run_once
    from otcache_core.contracts import Storage
    from otcache_core.plugins import Registry

    registry, plan_ = Registry(), load_policy(policy)
    if file is not None:
        check_name(file, registry)
    opened = open_pipeline(pipeline, registry)
    arguments = {**opened.call, **_arguments(call)}
    result = run_once(
        opened.target,
        plan_,
        _integer("--budget", budget),
        prompt,
        seed=seed,
        num_steps=steps,
        strict=strict,
        call=arguments,
        storage=Storage(cache_dtype, cache_device) if cache_dtype or cache_device else None,
    )
    rate = rate or opened.frames_per_second or FRAMES_PER_SECOND
    written = save(file, result.made, rate, registry)
    _show({"file": str(written), **result.report.to_dict()}, as_json)


@app.command()
def compare(
    pipeline: Pipeline,
    directory: Annotated[
        Path, typer.Option("--out", help="Folder of the comparison; gone on with if begun.")
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
        Path | None, typer.Option(help="Held-out prompts, one a line; tags after a tab.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration-prompts", help="Prompts to tune methods on.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Held-out prompts, at most.")] = 16,
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds of each prompt.")] = "1000",
    reference: Annotated[
        int, typer.Option("--reference-steps", help="Steps that stand for the ODE's solution.")
    ] = 500,
    batch_size: Annotated[
        int, typer.Option(help="Samples in one call where nothing is timed.")
    ] = 16,
    rate: Annotated[
        float | None, typer.Option("--fps", help="Frames a second of clips; the demo's, or 16.")
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds one cell may take.")] = 600.0,
    workers: Annotated[int, typer.Option(help="Methods at a time.", min=1)] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another comparison in the folder.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed.")] = False,
    call: Call = None,
    as_json: Json = False,
) -> None:
    """Set methods beside each other on one pipeline, each in a process of its own; write a report.

    An interrupted comparison goes on where it stopped; a finished one only writes its report again.
    """
    from otcache.arena import Settings
    from otcache.arena import compare as run_comparison
    from otcache.arena.asking import Question
    from otcache_core.plugins import Registry

    question = Question(
        pipeline=pipeline,
        policy=policy,
        num_steps=steps,
        budgets=_integers("--budgets", budgets),
        prompts=prompts,
        calibration=calibration,
        samples=samples,
        seeds=_integers("--seeds", seeds),
        call=_arguments(call),
        reference_steps=reference,
        batch_size=batch_size,
        frames_per_second=rate,
    )
    settings = Settings(
        limit=limit,
        workers=workers,
        overwrite=force,
        retry=retry,
        progress=not as_json,
        command=_command_line(),
        metrics=_names(metrics),
    )
    job = question.job(Registry())
    results, written = run_comparison(job, _names(methods), directory, settings)
    _show_results(results, written, as_json)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="Folder that compare or demo wrote.")],
    as_json: Json = False,
) -> None:
    """Write the report of a comparison again, from its results and pictures; runs no network."""
    from otcache.report import rebuild

    written = [str(path) for path in rebuild(directory)]
    _show({"files": written} if as_json else {"report": directory / "report.html"}, as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Policy file, or folder of a calibration.")],
    budget: Annotated[
        str | None, typer.Option(help="Show the schedule of one budget only.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a policy's schedules and tell where it comes from; of a calibration, show its ladder."""
    if file.is_dir():
        _inspect_calibration(file, as_json)
        return
    from otcache.inspection import draw
    from otcache.running import load_policy

    policy = load_policy(file)
    nodes = (policy.anchor, policy.reference, *policy.ladder)
    every = sorted({1, policy.num_steps, *(node.budget for node in nodes)})
    budgets = [_integer("--budget", budget)] if budget else every
    schedules = [policy.schedule(b) for b in budgets]
    if as_json:
        _print_json(
            {
                "provenance": policy.provenance.to_dict(),
                "schedules": [s.to_dict() for s in schedules],
            }
        )
    else:
        out.print(draw(policy, schedules))


def _inspect_calibration(folder: Path, as_json: bool) -> None:
    """Show what was measured of every candidate at every rung."""
    import msgspec

    from otcache.inspection import candidate_table
    from otcache_core.calibration import Calibration

    calibration = Calibration.load(folder)
    if as_json:
        _print_json(
            {
                "provenance": calibration.provenance,
                "nfe": dict(calibration.nfe),
                "ladder": [msgspec.to_builtins(rung) for rung in calibration.ladder],
            }
        )
    else:
        out.print(candidate_table(calibration))


@app.command()
def estimate(
    model: Annotated[
        str,
        typer.Argument(
            help="A name as flux-1-dev, the class of a denoiser, or a folder saved by save_pretrained."
        ),
    ],
    height: Annotated[int, typer.Option(help="In pixels.")] = 1024,
    width: Annotated[int, typer.Option(help="In pixels.")] = 1024,
    frames: Annotated[int, typer.Option(help="Of a clip; 1 for pictures.")] = 1,
    steps: Annotated[int, typer.Option(help="N.")] = 50,
    budget: Annotated[
        str | None, typer.Option(help="B, or several, comma-separated; shares of N by default.")
    ] = None,
    memory: Annotated[int, typer.Option(help="Outputs a forecast uses.")] = 3,
    dtype: Annotated[str, typer.Option(help="Of cached outputs: bf16, fp16 or fp32.")] = "bf16",
    as_json: Json = False,
) -> None:
    """Count FLOPs, cached bytes and the ideal speedup of a model at full size; needs no weights."""
    from otcache.estimate_table import estimate_table
    from otcache.estimating import estimate as count

    found = count(
        model,
        height=height,
        width=width,
        frames=frames,
        num_steps=steps,
        budgets=[_integer("--budget", b) for b in budget.split(",")] if budget else (),
        memory=memory,
        dtype=dtype,
    )
    if as_json:
        _print_json(found.to_dict())
    else:
        out.print(estimate_table(found), highlight=False)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A schedule, policy, index table, list of indices or mask (JSON), or a published table."
        ),
    ],
    path: Annotated[Path, typer.Option("--out", help="JSON file to write.")],
    to: Annotated[
        str, typer.Option(help="schedule, indices, or mask (cache-dit's steps_computation_mask).")
    ] = "schedule",
    budget: Annotated[str | None, typer.Option(help="B, of a policy or a table.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="N; needed where the source does not tell.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn index tables, masks, policies and schedules into one another; runs no network."""
    from otcache.converting import load_schedule, write_schedule

    wanted = None if budget is None else _integer("--budget", budget)
    schedule = load_schedule(source, budget=wanted, num_steps=steps)
    write_schedule(schedule, path, to)
    facts = {"num_steps": schedule.num_steps, "computed": list(schedule.computed)}
    _show({"written": str(path), "budget": schedule.budget, **facts}, as_json)


@plugins_app.command("list")
def plugins_list(as_json: Json = False) -> None:
    """Name every plugin, by kind; loads none of them."""
    from otcache.inspection import plugin_table
    from otcache_core.plugins import KINDS, Registry

    registry = Registry()
    rows = [
        {
            "kind": kind,
            "name": r.info.name,
            "distribution": r.distribution,
            "summary": r.info.summary,
        }
        for kind in KINDS
        for r in registry.infos(kind)
    ]
    if as_json:
        _print_json(rows)
    else:
        out.print(plugin_table(rows))
    if registry.problems:
        left_out = f"{len(registry.problems)} left out: otcache plugins doctor tells why."
        _say(left_out, "yellow")


@plugins_app.command("doctor")
def plugins_doctor(as_json: Json = False) -> None:
    """Tell which plugins were left out and why; exit status 1 if any was."""
    from otcache_core.errors import PluginWarning
    from otcache_core.plugins import Registry

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # the same, about to be printed
        problems = Registry().problems
    if as_json:
        _print_json([problem._asdict() for problem in problems])
    else:
        for line in map(str, problems) if problems else ["no problems: every plugin was read."]:
            _line(line)
    if problems:
        raise typer.Exit(1)


def _show_results(results: Any, written: list[Path], as_json: bool) -> None:
    if as_json:
        _print_json({"results": results.to_dict(), "files": [str(path) for path in written]})
        return
    from otcache.report.terminal import summary_table

    wide = Console(width=max(TABLE_WIDTH, out.width))
    wide.print(summary_table(results))
    for gap in results.missing:
        at = "" if gap.budget is None else f" at B = {gap.budget}"
        _line(f"not run: {gap.method}{at}: {gap.reason}")
    _line(f"report: {written[0]}")


def _command_line() -> str:
    return shlex.join(["otcache", *sys.argv[1:]])


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _integers(what: str, text: str | None) -> tuple[int, ...]:
    return tuple(_integer(what, part) for part in _names(text))


def _integer(what: str, text: str) -> int:
    from otcache_core.errors import expected

    try:
        return int(text)
    except ValueError:
        raise OtcacheError(expected(what, text, "a whole number")) from None


def _arguments(pairs: list[str] | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for pair in pairs or []:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise OtcacheError(f"--set must be NAME=VALUE, got {pair!r}.")
        if name in OWN:
            raise OtcacheError(f"--set {name} is not taken: {OWN[name]}.")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        _line(Text.assemble((name, "bold"), f": {value}"))


def main() -> None:
    """Entry point: a misuse prints one line and exits with status 2; tracebacks only with --debug."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(words) < len(sys.argv) - 1
    with warnings.catch_warnings():
        if not debug:
            for chatter in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", chatter)
            warnings.showwarning = _notice
        try:
            app(args=words)
        except OtcacheError as error:
            if debug:
                raise
            _say(str(error), "red")
            sys.exit(2)
        except SystemExit as stop:
            if stop.code == INTERRUPTED:
                _say(
                    "interrupted; the same command goes on from here if it keeps a folder.",
                    "yellow",
                )
            raise
        except Exception as error:
            if debug:
                raise
            _say(f"{type(error).__name__}: {error} (--debug shows where)", "red")
            sys.exit(1)


def _notice(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, OtcacheNotice):
        _say(str(message), "yellow")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))


def _say(text: str, style: str) -> None:
    _line(Text(f"otcache: {text}", style), Console(stderr=True))


def _line(text: str | Text, console: Console = out) -> None:
    """As it is, and on one line: a path or command in it can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
