"""Read and write schedules in the formats of other projects; the schedule tables they have published."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from otcache_core import (
    FileError,
    OtcacheError,
    PlaybackTable,
    Schedule,
    ScheduleError,
    ScheduleTable,
)
from otcache_core.contracts.planning import forecaster_of
from otcache_core.errors import expected
from otcache_core.notices import notify
from otcache_core.numbers import integer
from otcache_core.playback import playback_table
from otcache_core.plugins.registry import installed
from otcache_core.policy import FORMAT as POLICY_FORMAT
from otcache_core.policy import Policy
from otcache_core.schedule import FORMAT as SCHEDULE_FORMAT
from otcache_core.schedule import MAX_STEPS
from otcache_core.storage.files import bad_file, write_bytes
from otcache_core.storage.json_files import read_json
from otcache_core.transport import FORMAT as TABLE_FORMAT

T = TypeVar("T")
#: Kinds of files that :func:`write_schedule` writes.
KINDS = ("schedule", "indices", "mask")


def load_schedule(
    source: str | Path, *, budget: int | None = None, num_steps: int | None = None
) -> Schedule:
    """Read a schedule from any file that holds one.

    Args:
        source: the name of a published table, or a JSON file: a schedule, table or policy of otcache; an
            index table ``{"10": [0, 1, 3, ...], ...}`` as LeMiCa and MeanCache publish them; a list of
            computed steps, which begins with 0; or a mask of 0 and 1 as cache-dit takes it, which begins
            with 1.
        budget: B; optional for a table of one row. A table without a row of this budget is resampled.
        num_steps: N; required for lists and tables of indices, which do not contain it. A table or
            policy with another N is resampled, with a notice.

    Raises:
        FileError: if the file cannot be read, or holds something else.
        ScheduleError: if its content is not a valid schedule, or ``budget`` or ``num_steps`` is missing or
            contradicts the file.

    Examples:
        >>> load_schedule("lemica-wan-2-1-t2v-1-3b", budget=14).computed
        (0, 1, 2, 3, 4, 5, 7, 10, 16, 23, 30, 37, 44, 49)
    """
    budget, num_steps = _optional_count("budget", budget), _optional_count("num_steps", num_steps)
    if str(source) in names():
        return _from_table(published(str(source)), budget, num_steps)
    data = read_json(_existing_path(source))
    if isinstance(data, list):
        return _checked_against(_from_list(source, data, num_steps), budget, num_steps)
    kind = data.get("format") if isinstance(data, dict) else None
    if kind == SCHEDULE_FORMAT:
        return _checked_against(Schedule.load(source), budget, num_steps)
    if kind == POLICY_FORMAT:
        policy = Policy.load(source)
        return policy.schedule(_required_budget(budget, f"1 .. {policy.num_steps}"), num_steps)
    return _from_table(_table(source, data, num_steps), budget, num_steps)


def load_playback(
    source: str | Path,
    *,
    budget: int | None = None,
    num_steps: int | None = None,
    grid: Sequence[float] = (),
) -> PlaybackTable:
    """Make the playback table of any file that holds a schedule; notices say which steps it adds.

    Args:
        source: as in :func:`load_schedule`. Only the table of a policy says what the denoiser predicts, and
            which policy it is of.
        budget: as in :func:`load_schedule`.
        num_steps: as in :func:`load_schedule`.
        grid: s_0 .. s_N of the run; of a policy at its own step count the policy's by default.

    Raises:
        OtcacheError: as :func:`load_schedule`, or if the table needs a grid that is not known.
    """
    data = None if str(source) in names() else read_json(_existing_path(source))
    if isinstance(data, dict) and data.get("format") == POLICY_FORMAT:
        policy = Policy.load(source)
        wanted = _required_budget(_optional_count("budget", budget), f"1 .. {policy.num_steps}")
        table = policy.export(wanted, _optional_count("num_steps", num_steps), grid or None)
    else:
        schedule = load_schedule(source, budget=budget, num_steps=num_steps)
        table = playback_table(schedule, forecaster_of(installed(), schedule.forecaster), grid)
    for note in table.notes:
        notify(note)
    return table


def load_table(source: str | Path, num_steps: int | None = None) -> ScheduleTable:
    """Read a published table by name, or a table from a file.

    Args:
        source: a name or file as in :func:`load_schedule`, restricted to tables.
        num_steps: N of an index table, which does not contain it.

    Raises:
        FileError: if the file cannot be read or holds no table.
        ScheduleError: if a row is not a valid schedule.
    """
    num_steps = _optional_count("num_steps", num_steps)
    if str(source) in names():
        return published(str(source))
    data = read_json(_existing_path(source))
    if isinstance(data, list) or (
        isinstance(data, dict) and data.get("format") in (SCHEDULE_FORMAT, POLICY_FORMAT)
    ):
        wanted = "a table of otcache or an index table"
        advice = "otcache.load_schedule(...) reads schedules, policies, lists and masks."
        got = "a list" if isinstance(data, list) else str(data["format"])
        raise bad_file(source, expected("the file", got, wanted, advice))
    return _table(source, data, num_steps)


def write_schedule(schedule: Schedule, path: Path, kind: str = "schedule") -> None:
    """Write a schedule of otcache, a list of computed steps, or cache-dit's mask of steps.

    Lists and masks store no forecaster or weights; a notice says so if the schedule has any.

    Raises:
        ScheduleError: if ``kind`` is not one of :data:`KINDS`, or a list or mask is requested of a
            schedule whose branches compute different steps.
        FileError: if the file cannot be written.
    """
    if kind not in KINDS:
        raise ScheduleError(expected("kind", kind, f"one of {', '.join(KINDS)}"))
    if kind == "schedule":
        schedule.save(path)
        return
    mask = schedule.to_mask()
    if schedule.forecaster != "reuse":
        notify(
            f"forecasts by {schedule.forecaster!r} are omitted: a file of kind {kind!r} holds "
            "computed steps only."
        )
    write_bytes(path, json.dumps(mask if kind == "mask" else schedule.computed).encode() + b"\n")


def _optional_count(name: str, value: int | None) -> int | None:
    return None if value is None else integer(name, value, 1, MAX_STEPS, kind=ScheduleError)


def _existing_path(source: str | Path) -> Path:
    if not isinstance(source, (str, Path)) or not os.path.lexists(source):
        among = f"a file, or one of {', '.join(names())}"
        raise FileError(expected("the source", str(source), among))
    return Path(source)


def _from_list(source: str | Path, data: list[Any], num_steps: int | None) -> Schedule:
    _require_integers(source, data)
    if data[:1] == [1]:
        return _naming_file(source, lambda: Schedule.from_mask(data))
    if num_steps is None:
        reason = f"{source} lists computed steps only."
        raise ScheduleError(expected("num_steps", None, "given", reason))
    return _naming_file(source, lambda: Schedule(num_steps, tuple(data)))


def _table(source: str | Path, data: Any, num_steps: int | None) -> ScheduleTable:
    if isinstance(data, dict) and data.get("format") == TABLE_FORMAT:
        return ScheduleTable.load(source)
    rows = data if isinstance(data, dict) else {}
    numbers = all(key.isascii() and key.isdecimal() for key in rows)
    if not (rows and numbers and all(isinstance(row, list) for row in rows.values())):
        wanted = "a schedule, table or policy of otcache, an index table, a list of steps or a mask"
        raise bad_file(source, expected("the file", type(data).__name__, wanted))
    for key, row in rows.items():
        _require_integers(source, row)
        if str(len(row)) != key:
            raise bad_file(source, expected(f"row {key!r}", f"{len(row)} steps", key))
    if num_steps is None:
        reason = f"{source} lists computed steps only."
        raise ScheduleError(expected("num_steps", None, "given", reason))
    name = Path(source).stem
    ordered = tuple(sorted(map(tuple, rows.values()), key=len))
    return _naming_file(source, lambda: ScheduleTable(name, str(source), num_steps, ordered))


def _naming_file(source: str | Path, make: Callable[[], T]) -> T:
    """Call ``make``, and turn its error into a FileError that names the file."""
    try:
        return make()
    except OtcacheError as error:
        raise bad_file(source, str(error)) from error


def _require_integers(source: str | Path, row: list[Any]) -> None:
    if any(isinstance(k, bool) or not isinstance(k, int) for k in row):
        raise bad_file(source, expected("a row", row, "whole numbers"))


def _from_table(table: ScheduleTable, budget: int | None, num_steps: int | None) -> Schedule:
    if budget is None and len(table.budgets) == 1:
        budget = table.budgets[0]
    wanted = _required_budget(budget, ", ".join(map(str, table.budgets)))
    n = table.num_steps if num_steps is None else num_steps
    if n == table.num_steps and wanted in table.budgets:
        return table.schedule(wanted)
    notify(
        f"the table {table.name!r} has {table.num_steps} steps and budgets "
        f"{', '.join(map(str, table.budgets))}: resampled to {wanted} of {n} steps."
    )
    return table.resampled(wanted, n)


def _required_budget(budget: int | None, among: str) -> int:
    if budget is None:
        raise ScheduleError(expected("budget", None, f"given, of {among}"))
    return budget


def _checked_against(schedule: Schedule, budget: int | None, num_steps: int | None) -> Schedule:
    """Return the schedule unchanged; raise if a requested budget or N is not the file's."""
    for name, wanted in (("budget", budget), ("num_steps", num_steps)):
        if wanted not in (None, getattr(schedule, name)):
            raise ScheduleError(
                expected(name, wanted, f"{getattr(schedule, name)}, as in the file")
            )
    return schedule


def names() -> tuple[str, ...]:
    """Return the names of the shipped tables."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json")))


def published(name: str) -> ScheduleTable:
    """Return a shipped table.

    Raises:
        OtcacheError: if there is none of this name; the message lists them.
    """
    if name not in names():
        raise OtcacheError(expected("table", name, f"one of {', '.join(names())}"))
    return ScheduleTable.load(_folder() / f"{name}.json")


def made_for(target: Any, prefix: str = "") -> ScheduleTable | None:
    """Return the shipped table that was published for a pipeline's class, or None.

    Of several, it is the one whose model is nearest in number of parameters.

    Args:
        target: a pipeline.
        prefix: only tables whose names start with it are considered.
    """
    tables = [t for t in _tables(prefix) if type(target).__name__ in t.pipelines]
    if len(tables) < 2:
        return tables[0] if tables else None
    size = sum(p.numel() for p in target.transformer.parameters())
    return min(tables, key=lambda table: abs(math.log(max(1, size) / max(1.0, table.parameters))))


def no_table(target: Any, prefix: str = "") -> str:
    """Return the error message for a pipeline without a table; it lists the classes that have one."""
    known = ", ".join(sorted({name for table in _tables(prefix) for name in table.pipelines}))
    return expected("the pipeline", type(target).__name__, f"one there is a table for ({known})")


def _tables(prefix: str) -> list[ScheduleTable]:
    return [published(name) for name in names() if name.startswith(prefix)]


def _folder() -> Path:
    return Path(str(resources.files("otcache"))) / "published"
