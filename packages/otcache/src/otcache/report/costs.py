"""What a picture costs, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from otcache.results import Cell, Results


@dataclass(frozen=True)
class Cost:
    """One column of costs.

    Args:
        head: of the column.
        value: what a cell costs; None where it was not measured.
        write: the text of a cell.
    """

    head: str
    value: Callable[[Cell], float | None]
    write: Callable[[Cell], str]


def costs(results: Results) -> list[Cost]:
    """The columns that at least one cell has."""
    return [cost for cost in _COSTS if any(cost.value(c) is not None for c in results.cells)]


def speedup(cell: Cell) -> str:
    """``measured (ideal)``."""
    return f"{cell.measured_speedup:.2f} ({cell.ideal_speedup:.2f})"


def _scaled(head: str, field: str, unit: float) -> Cost:
    def value(cell: Cell) -> float | None:
        amount: float | None = getattr(cell, field)
        return None if amount is None else amount / unit

    def write(cell: Cell) -> str:
        amount = value(cell)
        if amount is None:
            return "-"
        return f"{amount:.0f}" if amount >= 100 else f"{amount:.3g}"

    return Cost(head, value, write)


_COSTS = (
    Cost("NFE", lambda cell: cell.nfe, lambda cell: f"{cell.nfe:.4g}"),
    Cost("speedup (ideal)", lambda cell: cell.measured_speedup, speedup),
    _scaled("seconds", "seconds", 1),
    _scaled("TFLOPs", "flops", 1e12),
    _scaled("peak MB", "peak_bytes", 1e6),
)
