"""Which steps are computed, as small pictures of the page."""

from __future__ import annotations

from dataclasses import dataclass

from otcache.report.scales import OURS
from otcache.results import Cell, Results


@dataclass(frozen=True)
class Strip:
    """A row of the page: computed steps filled.

    Attributes:
        method: name of the row.
        ours: whether it is otcache's.
        path: outline of the filled steps, one unit a step, one unit high.
        steps: the computed steps in words.
    """

    method: str
    ours: bool
    path: str
    steps: str


def strips(results: Results, budget: int) -> list[Strip]:
    """Rows of a budget, but for methods that decide by the input or run a step grid of their own."""
    return [_strip(c, c.schedule) for c in results.at(budget) if c.schedule is not None]


def without_strip(results: Results) -> list[str]:
    """Methods that have no strip at any budget."""
    drawn = {cell.method for cell in results.cells if cell.schedule is not None}
    return [method for method in results.methods if method not in drawn]


def _strip(cell: Cell, schedule: tuple[int, ...]) -> Strip:
    path = "".join(f"M{step + 0.08:g} 0h.84v1h-.84z" for step in schedule)
    return Strip(cell.method, cell.method == OURS, path, ", ".join(map(str, schedule)))
