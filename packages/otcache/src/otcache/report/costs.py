"""What a picture costs, in words."""

from __future__ import annotations

from otcache.results import Cell

COST_HEADS = ["NFE", "speedup (ideal)", "seconds", "TFLOPs", "peak MB"]


def cost_figures(cell: Cell) -> list[str]:
    """One text for each of :data:`COST_HEADS`; a dash where it was not measured."""
    return [
        f"{cell.nfe:.4g}",
        speedup(cell),
        _significant(cell.seconds),
        _significant(None if cell.flops is None else cell.flops / 1e12),
        _significant(None if cell.peak_bytes is None else cell.peak_bytes / 1e6),
    ]


def speedup(cell: Cell) -> str:
    """``measured (ideal)``."""
    return f"{cell.measured_speedup:.2f} ({cell.ideal_speedup:.2f})"


def _significant(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
