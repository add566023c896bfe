"""What a picture costs, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from otcache.results import Cell, Results

#: What was not measured, or is withheld.
NONE = "-"


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
    return [cost for cost in _COSTS if any(cost.write(c) != NONE for c in results.cells)]


def timed(results: Results) -> bool:
    """Whether the speed of any cell was measured, given or withheld."""
    return any(speedup(cell) != NONE for cell in results.cells)


def speedup(cell: Cell, digits: int = 2) -> str:
    """Write ``measured ±spread (ideal)``, a dash for what is withheld, alone if none was timed.

    Args:
        cell: of the table.
        digits: of the ideal: a terminal has no room for two.
    """
    ideal = f"({cell.ideal_speedup:.{digits}f})"
    if cell.withheld:
        return f"{NONE} {ideal}"
    if cell.measured_speedup is None or cell.speedup_spread is None:
        return NONE
    spread = f"{cell.speedup_spread:.2f}".removeprefix("0")
    return f"{cell.measured_speedup:.2f} ±{spread} {ideal}"


def about_speed(results: Results) -> str:
    """Say what speedups are, and why some are withheld; nothing where none was timed."""
    if not timed(results):
        return ""
    told = [
        "Speedup: whole calls, each beside a full run, the median of such pairs ± half of its interval "
        "(ideal N/NFE)."
    ]
    for reason, count in Counter(c.withheld for c in results.cells if c.withheld).items():
        told.append(f"Withheld (-) at {count} of {len(results.cells)}, since {reason}.")
    return " ".join(told)


def _scaled(head: str, field: str, unit: float, spread: str = "") -> Cost:
    def value(cell: Cell) -> float | None:
        amount: float | None = getattr(cell, field)
        return None if amount is None else amount / unit

    def write(cell: Cell) -> str:
        amount = value(cell)
        if amount is None:
            return NONE
        half = f" ±{getattr(cell, spread) / unit:.2g}" if spread else ""
        return (f"{amount:.0f}" if amount >= 100 else f"{amount:.3g}") + half

    return Cost(head, value, write)


_COSTS = (
    Cost("NFE", lambda cell: cell.nfe, lambda cell: f"{cell.nfe:.4g}"),
    Cost("speedup (ideal)", lambda cell: cell.measured_speedup, speedup),
    _scaled("seconds", "seconds", 1, "seconds_spread"),
    _scaled("TFLOPs", "flops", 1e12),
    _scaled("peak MB", "peak_bytes", 1e6),
)
