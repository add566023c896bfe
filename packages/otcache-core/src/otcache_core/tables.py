"""Tables of computed steps, as their authors publish them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

from otcache_core.errors import ScheduleError, expected
from otcache_core.json_files import load_json, save_json
from otcache_core.schedule import Schedule, check_budget
from otcache_core.warp import levels, quantile_function, round_to_steps

FORMAT, VERSION = "otcache-table", 1


class ScheduleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Schedules of one model at one step count, a few budgets of it; output reuse between their steps.

    Args:
        name: of the table.
        source: who published it, and where.
        num_steps: N.
        rows: computed steps of each budget, rising in budget.
        model: that it was made for.
        pipelines: class names of diffusers pipelines of that model.
        parameters: of the denoiser, where one class of pipelines has several tables; else 0.

    Raises:
        ScheduleError: if a row is no schedule, two have the same budget, or ``parameters`` are negative.

    Examples:
        >>> table = ScheduleTable("mine", "by hand", 10, ((0, 5), (0, 2, 4, 7)))
        >>> table.budgets, table.schedule(4).computed
        ((2, 4), (0, 2, 4, 7))
    """

    name: str
    source: str
    num_steps: int
    rows: tuple[tuple[int, ...], ...]
    model: str = ""
    pipelines: tuple[str, ...] = ()
    parameters: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.parameters < math.inf:
            wanted = "a finite number of at least 0"
            raise ScheduleError(expected("parameters", self.parameters, wanted))
        budgets = [Schedule(self.num_steps, row).budget for row in self.rows]
        if not budgets or budgets != sorted(set(budgets)):
            raise ScheduleError(expected("budgets of rows", budgets, "distinct and rising"))

    @property
    def budgets(self) -> tuple[int, ...]:
        """B of each row."""
        return tuple(len(row) for row in self.rows)

    def schedule(self, budget: int) -> Schedule:
        """A row as it was published.

        Raises:
            ScheduleError: if there is none of this budget.
        """
        if budget not in self.budgets:
            among = f"one of {', '.join(map(str, self.budgets))} in the table {self.name!r}"
            raise ScheduleError(expected("budget", budget, among))
        return Schedule(self.num_steps, self.rows[self.budgets.index(budget)])

    def carried(self, budget: int, num_steps: int) -> Schedule:
        """A schedule of any budget and step count in the table's spirit; a row itself where it fits.

        Of the rows the one nearest in B/N is read as a warp (:func:`~otcache_core.warp.quantile_function`)
        and sampled at the new N and B.

        Args:
            budget: B, in 1..N.
            num_steps: N.

        Raises:
            ScheduleError: if the budget is out of range.
        """
        share = check_budget(budget, num_steps) / num_steps
        row = min(self.rows, key=lambda steps: abs(len(steps) / self.num_steps - share))
        warp = quantile_function(Schedule(self.num_steps, row))
        return Schedule(num_steps, round_to_steps(warp(levels(budget)), num_steps))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically.

        Raises:
            FileError: if the file cannot be written.
        """
        save_json(path, FORMAT, VERSION, self)

    @classmethod
    def load(cls, path: str | Path) -> ScheduleTable:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: naming file, field, got and expected.
        """
        return load_json(path, FORMAT, VERSION, cls)

    @classmethod
    def of(
        cls, name: str, source: str, num_steps: int, rows: Iterable[Iterable[int]]
    ) -> ScheduleTable:
        """A table of rows in any order.

        Raises:
            ScheduleError: as the class itself.
        """
        ordered = sorted((tuple(row) for row in rows), key=len)
        return cls(name, source, num_steps, tuple(ordered))
