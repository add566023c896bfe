"""What ``otcache estimate`` prints."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from otcache.estimating import LEFT_OUT, Estimate


def estimate_table(estimate: Estimate) -> Group:
    """Return one line a budget, with what was assumed above and what was omitted below."""
    call, canvas = estimate.call, estimate.canvas
    size = f"{canvas.width} x {canvas.height}"
    frames = f", {canvas.frames} frames" if canvas.frames > 1 else ""
    head = Text(f"{estimate.model}: {estimate.model_class}", style="bold")
    facts = Text(
        f"{_parameters(call.parameters)} parameters; {size}{frames}; {estimate.assumed}\n"
        f"one denoiser call {_flops(call.flops)}, {call.calls_per_step} a step; "
        f"decoding {_flops(call.decode_flops)}"
    )
    heads = ("budget", "calls", "FLOPs a run", "cached, at most", "ideal speedup", "with decoding")
    table = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for o in estimate.outlays:
        speedups = (f"{o.ideal_speedup:.2f}x", f"{o.ideal_speedup_decoded:.2f}x")
        share = f"{o.budget} of {estimate.num_steps}"
        table.add_row(share, str(o.calls), _flops(o.flops), _bytes(o.cached_bytes), *speedups)
    foot = Text(
        f"Cached: {estimate.memory} outputs a branch in {estimate.dtype}. A multiply-add counts two FLOPs. "
        f"Omitted: {LEFT_OUT}. FLOPs are not time: these are bounds, not measurements.",
        style="dim",
    )
    return Group(head, facts, table, foot)


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"


def _flops(count: int) -> str:
    return _scaled(count, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _bytes(count: int) -> str:
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _scaled(count: int, base: int, units: tuple[str, ...]) -> str:
    """Three digits and a unit."""
    value, unit = float(count), 0
    while value >= base and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    return f"{value:.3g} {units[unit]}" if value < 1000 else f"{value:.0f} {units[unit]}"
