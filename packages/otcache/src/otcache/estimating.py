"""Estimate what a model costs at each budget, without its weights.

:func:`estimate` counts, from a known architecture or from the config.json files of a folder, and
:func:`estimate_table` shows the result.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from otcache.calibration.efforts import EFFORTS, full_runs, recipe_of
from otcache_core import OtcacheError
from otcache_core.errors import expected, shortened
from otcache_core.models import Architecture, CallCost, Canvas, Configs
from otcache_core.numbers import integer, integers
from otcache_core.plugins import Registry, installed
from otcache_core.schedule import MAX_STEPS
from otcache_core.storage.files import bad_file, read_bytes
from otcache_core.storage.json_files import parse_json

#: Bytes of a number.
DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4}
#: B/N of the rows, if no budget is given.
SHARES = (0.1, 0.2, 0.3, 0.5, 1.0)
#: Where pipelines keep what they denoise with.
DENOISERS = ("transformer", "unet")
MAX_BYTES = 2**20
#: No model has more; building such a one to count its operations takes hours.
MAX_LAYERS = 500
#: TFLOP/s that a GPU is assumed to sustain: 40 % of an H100's peak in bf16.
TFLOPS = 400.0
OMITTED = "text encoders and the sampler's own arithmetic"


@dataclass(frozen=True)
class CostRow:
    """Cost of one run at one budget.

    Attributes:
        budget: B.
        calls: denoiser calls.
        flops: of those calls.
        cached_bytes: of held outputs, at most.
        ideal_speedup: N/B.
        ideal_speedup_decoded: the same with one decoding in both runs.
    """

    budget: int
    calls: int
    flops: int
    cached_bytes: int
    ideal_speedup: float
    ideal_speedup_decoded: float


@dataclass(frozen=True)
class Estimate:
    """Costs of one model on one canvas.

    Attributes:
        model: its name.
        model_class: class of the denoiser.
        assumed: guidance and text length.
        source: of its configuration.
        canvas: size of the image or video.
        num_steps: N.
        memory: m, outputs held for each branch.
        dtype: of the held outputs.
        call: of one denoiser call.
        rows: one per budget.
    """

    model: str
    model_class: str
    assumed: str
    source: str
    canvas: Canvas
    num_steps: int
    memory: int
    dtype: str
    call: CallCost
    rows: tuple[CostRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "omitted": OMITTED}


@dataclass(frozen=True)
class CalibrationRow:
    """Cost of a calibration, at most.

    Attributes:
        effort: its name.
        samples: prompts that are measured.
        budgets: that it measures first; a standard one goes on between them while its allowance lasts.
        full_runs: what it takes in full runs of one sample.
        flops: of them, without decoding.
        gpu_hours: of one GPU at the given rate.
        recorded_bytes: of recorded runs in its folder, in float32.
    """

    effort: str
    samples: int
    budgets: tuple[int, ...]
    full_runs: float
    flops: float
    gpu_hours: float
    recorded_bytes: int


def estimate_calibration(
    estimate: Estimate, *, budgets: Sequence[int] = (), samples: int = 8, tflops: float = TFLOPS
) -> tuple[CalibrationRow, ...]:
    r"""Count what calibrations of a model cost, by effort; runs nothing.

    With R full runs of N steps (:func:`otcache.calibration.efforts.full_runs`), f the FLOPs of a step, c its
    calls and d numbers in an output

    .. math:: t = \frac{R N f}{\mathrm{rate}}, \qquad \mathrm{bytes} = 4\, n\, ((1 + c) N + 1)\, d.

    Args:
        estimate: of the model.
        budgets: of the quick one; about N/5 if none is given.
        samples: prompts of the standard and thorough ones.
        tflops: that one GPU sustains, in TFLOP/s; far below its peak.

    Raises:
        OtcacheError: if an argument is out of range.
    """
    n, call = estimate.num_steps, estimate.call
    if not 0 < tflops < math.inf:
        raise OtcacheError(expected("tflops", tflops, "finite and above 0"))
    samples = integer("samples", samples, 1)
    asked = [b for b in integers("budgets", budgets, 1, n) if b < n]
    quick = asked or [max(2, round(n / 5))]
    rows = []
    for effort in EFFORTS:
        named = quick if effort == "quick" else None
        recipe = recipe_of(effort, None, named).resolve(n)
        measured = max(samples, recipe.least_samples)
        measured = min(measured, recipe.samples or measured)
        runs = full_runs(recipe, n, measured)
        flops = runs * n * call.calls_per_step * call.flops
        recorded = 4 * measured * ((1 + call.calls_per_step) * n + 1) * call.output_elements
        hours = flops / (tflops * 1e12 * 3600)
        ladder = recipe.ladder or ()
        rows.append(CalibrationRow(effort, measured, ladder, runs, flops, hours, recorded))
    return tuple(rows)


def estimate(
    model: str,
    *,
    height: int = 1024,
    width: int = 1024,
    frames: int = 1,
    num_steps: int = 50,
    budgets: Sequence[int] = (),
    memory: int = 3,
    dtype: str = "bf16",
    registry: Registry | None = None,
) -> Estimate:
    r"""Count FLOPs and held bytes of a model at full size; no weights, no memory, seconds.

    With f the FLOPs of a step and D those of the decoder the speedups are

    .. math:: N/B, \qquad (N f + D) / (B f + D).

    They are bounds on what skipping can give, not measurements.

    Args:
        model: a name of ``otcache plugins list`` (kind ``architectures``), the class name of its
            denoiser, or a folder that ``save_pretrained`` wrote.
        height: in pixels.
        width: in pixels.
        frames: of one video; 1 for an image.
        num_steps: N.
        budgets: B of each row; some shares of N if none is given.
        memory: m, outputs that a forecast uses.
        dtype: of the outputs: bf16, fp16 or fp32.
        registry: where plugins come from; None: the installed ones.

    Raises:
        OtcacheError: if the model is not known or an argument is out of range.
    """
    num_steps = integer("num_steps", num_steps, 1, MAX_STEPS)
    memory = integer("memory", memory, 1, MAX_STEPS)
    if dtype not in DTYPES:
        raise OtcacheError(expected("dtype", dtype, f"one of {', '.join(DTYPES)}"))
    every = integers("budgets", budgets, 1, num_steps)
    every = every or sorted({max(1, round(share * num_steps)) for share in SHARES})
    architecture, configs = _find(model, registry or installed())
    canvas = Canvas(height, width, frames)
    call = _measured(model, architecture, canvas, configs)
    one = call.output_elements * DTYPES[dtype]
    return Estimate(
        model if configs else architecture.name,
        architecture.model_class,
        architecture.summary,
        model if configs else architecture.source,
        canvas,
        num_steps,
        memory,
        dtype,
        call,
        tuple(_row(call, num_steps, budget, memory, one) for budget in every),
    )


def _measured(model: str, architecture: Architecture, canvas: Canvas, configs: Configs) -> CallCost:
    if not configs:
        return architecture.measure(canvas, configs)
    try:
        return architecture.measure(canvas, configs)
    except OtcacheError:
        raise
    except Exception as error:  # whatever a damaged configuration makes a model class raise
        reason = shortened(f"{type(error).__name__}: {error}")
        raise bad_file(
            model, f"no {architecture.model_class} can be made of its config.json: {reason}"
        ) from error


def _row(call: CallCost, num_steps: int, budget: int, memory: int, one: int) -> CostRow:
    step, decode = call.calls_per_step * call.flops, call.decode_flops
    held = min(memory, budget) if budget < num_steps else 0
    return CostRow(
        budget=budget,
        calls=budget * call.calls_per_step,
        flops=budget * step,
        cached_bytes=held * call.calls_per_step * one,
        ideal_speedup=num_steps / budget,
        ideal_speedup_decoded=(num_steps * step + decode) / (budget * step + decode),
    )


def _find(model: str, registry: Registry) -> tuple[Architecture, Configs]:
    """Return the architecture, and the configurations of the user's own folder."""
    if not isinstance(model, str):
        raise OtcacheError(expected("model", model, "the name, class name or folder of a model"))
    names = [offer.info.name for offer in registry.known("architectures")]
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    if slug in names or not names:
        return registry.create("architectures", registry.resolve("architectures", slug)), {}
    if os.path.isdir(model):
        model_class, configs = read_model_folder(Path(model))
        return _of_class(model_class, registry), configs
    return _of_class(model, registry), {}


def _of_class(model_class: str, registry: Registry) -> Architecture:
    names, classes = list[str](), set[str]()
    for offer in registry.candidates("architectures"):
        try:
            architecture = registry.create("architectures", offer.qualified_name)
        except BaseException as error:
            registry.failed(offer, error)
            continue
        if model_class in (architecture.model_class, offer.info.name):
            return architecture
        names.append(offer.info.name)
        classes.add(architecture.model_class)
    listed = f"one of {', '.join(names)}; a class: {', '.join(sorted(classes))}"
    raise OtcacheError(expected("model", model_class, f"{listed}; or a folder of one of these"))


def read_model_folder(folder: Path) -> tuple[str, Configs]:
    """Read what ``save_pretrained`` wrote, of a pipeline or of its denoiser alone.

    Returns:
        The class of the denoiser, and the configurations of ``denoiser`` and, of a pipeline, ``vae``.

    Raises:
        FileError: if there is no config.json, or one is damaged.
    """
    places = [folder, *(folder / name for name in DENOISERS)]
    paths = [place / "config.json" for place in places]
    present = [path for path in paths if os.path.lexists(path)]
    if not present:
        names = ", ".join(f"{name}/config.json" for name in DENOISERS)
        raise bad_file(folder, f"must hold config.json, or {names}, got none of them.")
    denoiser = _read(present[0])
    vae = folder / "vae" / "config.json"
    configs = {"denoiser": denoiser} | ({"vae": _read(vae)} if os.path.lexists(vae) else {})
    return str(denoiser["_class_name"]), configs


def _read(path: Path) -> dict[str, Any]:
    config = parse_json(path, read_bytes(path, MAX_BYTES))
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise bad_file(path, "must be an object with a string _class_name.")
    for name, value in config.items():
        if _is_depth(name) and _largest(value) > MAX_LAYERS:
            raise bad_file(path, expected(name, value, f"at most {MAX_LAYERS} layers"))
    return config


def _is_depth(name: str) -> bool:
    counts = any(part in name for part in ("layer", "block", "depth"))
    return counts and not any(part in name for part in ("channel", "dim", "size", "scale"))


def _largest(value: Any) -> float:
    if isinstance(value, list):
        return max([len(value), *map(_largest, value)])
    return value if isinstance(value, int | float) else 0


def estimate_table(estimate: Estimate) -> Group:
    """Return one line per budget, with what was assumed above and what was omitted below."""
    call, canvas = estimate.call, estimate.canvas
    count = call.parameters
    parameters = f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"
    size = f"{canvas.width} x {canvas.height}"
    frames = f", {canvas.frames} frames" if canvas.frames > 1 else ""
    head = Text(f"{estimate.model}: {estimate.model_class}", style="bold")
    facts = Text(
        f"{parameters} parameters; {size}{frames}; {estimate.assumed}\n"
        f"one denoiser call {_flops(call.flops)}, {call.calls_per_step} a step; "
        f"decoding {_flops(call.decode_flops)}"
    )
    heads = ("budget", "calls", "FLOPs a run", "cached, at most", "ideal speedup", "with decoding")
    table = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for row in estimate.rows:
        speedups = (f"{row.ideal_speedup:.2f}x", f"{row.ideal_speedup_decoded:.2f}x")
        share = f"{row.budget} of {estimate.num_steps}"
        table.add_row(share, str(row.calls), _flops(row.flops), _bytes(row.cached_bytes), *speedups)
    foot = Text(
        f"Cached: {estimate.memory} outputs a branch in {estimate.dtype}. A multiply-add counts two FLOPs. "
        f"Omitted: {OMITTED}. FLOPs are not time: these are bounds, not measurements.",
        style="dim",
    )
    return Group(head, facts, table, foot)


def calibration_table(rows: Sequence[CalibrationRow], tflops: float) -> Group:
    """Return one line per effort, with what was assumed below."""
    heads = ("calibration", "prompts", "budgets", "full runs", "GPU hours", "recorded")
    table = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        measured = len(row.budgets)
        budgets = str(row.budgets[0]) if measured == 1 else f"{measured} and those between"
        figures = (f"{row.full_runs:.0f}", f"{row.gpu_hours:.3g}", _bytes(row.recorded_bytes))
        table.add_row(row.effort, str(row.samples), budgets, *figures)
    foot = Text(
        f"At most, on one GPU that sustains {tflops:g} TFLOP/s; a full run that you have timed says "
        "better: its seconds times full runs. Recorded runs are float32 in the calibration's folder. "
        "Omitted: decoding, once for each budget and prompt that is measured.",
        style="dim",
    )
    return Group(table, foot)


def _flops(count: int) -> str:
    return _scaled(count, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _bytes(count: int) -> str:
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _scaled(count: int, base: int, units: tuple[str, ...]) -> str:
    """Return three digits and a unit."""
    value, unit = float(count), 0
    while value >= base and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    return f"{value:.3g} {units[unit]}" if value < 1000 else f"{value:.0f} {units[unit]}"
