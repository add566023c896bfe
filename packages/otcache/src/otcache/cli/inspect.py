"""Inspect policies and calibrations, estimate costs, convert schedules; no network runs."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otcache.cli.options import Json, integer, integers, numbers
from otcache.cli.output import show_facts, show_json, show_table
from otcache_core import OtcacheError
from otcache_core.errors import expected

if TYPE_CHECKING:
    from otcache.estimating import CalibrationRow


def inspect(
    file: Annotated[Path, typer.Argument(help="Policy file, or folder of a calibration.")],
    budget: Annotated[
        str | None, typer.Option(help="Show the schedule of one budget only.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a policy's schedules and where it comes from; of a calibration, show its ladder."""
    if os.path.isdir(file):  # takes names that no file can have, unlike Path
        _inspect_calibration(file, as_json)
        return
    from otcache.inspection import draw
    from otcache.running import load_policy

    policy = load_policy(file)
    nodes = (policy.anchor, policy.reference, *policy.ladder)
    every = sorted({1, policy.num_steps, *(node.budget for node in nodes)})
    budgets = [integer("--budget", budget)] if budget is not None else every
    schedules = [policy.schedule(b) for b in budgets]
    if as_json:
        provenance = policy.provenance.to_dict()
        facts = {"provenance": provenance, "solver": policy.solver, "measured": not policy.solver}
        facts["errors"] = {one.budget: one.errors for one in policy.measured}
        show_json({**facts, "schedules": [s.to_dict() for s in schedules]})
    else:
        show_table(draw(policy, schedules))


def _inspect_calibration(folder: Path, as_json: bool) -> None:
    """Show what was measured of every candidate at every rung."""
    import msgspec

    from otcache.inspection import candidate_table
    from otcache_core.calibration import Calibration

    calibration = Calibration.load(folder)
    if as_json:
        ladder = [msgspec.to_builtins(rung) for rung in calibration.ladder]
        facts = {"provenance": calibration.provenance, "nfe": dict(calibration.nfe)}
        show_json({**facts, "ladder": ladder})
    else:
        show_table(candidate_table(calibration))


def estimate(
    model: Annotated[
        str,
        typer.Argument(
            help="A name as flux-1-dev, the class of a denoiser, or a folder saved by save_pretrained."
        ),
    ],
    height: Annotated[int, typer.Option(help="In pixels.")] = 1024,
    width: Annotated[int, typer.Option(help="In pixels.")] = 1024,
    frames: Annotated[int, typer.Option(help="Of a video; 1 for images.")] = 1,
    steps: Annotated[int, typer.Option(help="N.")] = 50,
    budget: Annotated[
        str | None, typer.Option(help="B, or several, comma-separated; shares of N by default.")
    ] = None,
    memory: Annotated[int, typer.Option(help="Outputs a forecast uses.")] = 3,
    dtype: Annotated[str, typer.Option(help="Of cached outputs: bf16, fp16 or fp32.")] = "bf16",
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also what calibrating it costs, by effort.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Calibration prompts.")] = 8,
    tflops: Annotated[
        float,
        typer.Option(help="TFLOP/s that a GPU sustains; 400 is 40 % of an H100's peak in bf16."),
    ] = 400.0,
    as_json: Json = False,
) -> None:
    """Count FLOPs, cached bytes and the ideal speedup of a model at full size; needs no weights."""
    from otcache.estimating import calibration_table, estimate_calibration, estimate_table
    from otcache.estimating import estimate as count
    from otcache.progress import Stages

    budgets = integers("--budget", budget)
    with Stages(not as_json).stage("building the model without weights"):
        counted = count(
            model,
            height=height,
            width=width,
            frames=frames,
            num_steps=steps,
            budgets=budgets,
            memory=memory,
            dtype=dtype,
        )
    rows: tuple[CalibrationRow, ...] = ()
    if calibration:
        rows = estimate_calibration(counted, budgets=budgets, samples=samples, tflops=tflops)
    if as_json:
        more = {"calibration": [asdict(row) for row in rows]} if calibration else {}
        show_json({**counted.to_dict(), **more})
        return
    show_table(estimate_table(counted), highlight=False)
    if calibration:
        show_table(calibration_table(rows, tflops), highlight=False)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A schedule, policy, index table, list of indices or mask (JSON), or a published table."
        ),
    ],
    path: Annotated[Path, typer.Option("--out", help="JSON file to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="schedule, indices, mask (cache-dit's steps_computation_mask), or playback (a table of "
            "steps and coefficients, which any engine can follow)."
        ),
    ] = "schedule",
    budget: Annotated[str | None, typer.Option(help="B, of a policy or a table.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="N; needed where the source does not say.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="Noise levels s_0 .. s_N of the run, comma-separated; of a playback."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn index tables, masks, policies and schedules into one another; runs no network."""
    from otcache.schedules import KINDS, load_schedule, write_schedule

    if to not in (*KINDS, "playback"):
        raise OtcacheError(expected("--to", to, f"one of {', '.join(KINDS)}, playback"))
    wanted = None if budget is None else integer("--budget", budget)
    if to == "playback":
        _convert_to_playback(source, path, wanted, steps, grid, as_json)
        return
    if grid is not None:
        raise OtcacheError(
            "--grid is taken by --to playback only: a schedule holds no noise levels."
        )
    schedule = load_schedule(source, budget=wanted, num_steps=steps)
    write_schedule(schedule, path, to)
    facts = {"num_steps": schedule.num_steps, "computed": list(schedule.computed)}
    show_facts({"written": str(path), "budget": schedule.budget, **facts}, as_json)


def _convert_to_playback(
    source: str,
    path: Path,
    budget: int | None,
    steps: int | None,
    grid: str | None,
    as_json: bool,
) -> None:
    from otcache.schedules import load_playback

    table = load_playback(source, budget=budget, num_steps=steps, grid=numbers("--grid", grid))
    table.save(path)
    computed = {name: list(plan.computed) for name, plan in table.branches.items()}
    shared = computed[""]
    facts = {"written": str(path), "budget": table.budget, "num_steps": table.num_steps}
    others = {name: steps for name, steps in computed.items() if steps != shared}
    show_facts({**facts, "computed": shared, "branches": others}, as_json)
