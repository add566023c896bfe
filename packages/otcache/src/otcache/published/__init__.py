"""Tables of computed steps that others have published, as data: one JSON file a model."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Any

from otcache_core import OtcacheError, ScheduleTable
from otcache_core.errors import expected


def names() -> tuple[str, ...]:
    """Of the shipped tables."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json")))


def published(name: str) -> ScheduleTable:
    """A shipped table.

    Raises:
        OtcacheError: if there is none of this name; the message lists them.
    """
    if name not in names():
        raise OtcacheError(expected("table", name, f"one of {', '.join(names())}"))
    return ScheduleTable.load(_folder() / f"{name}.json")


def made_for(target: Any, prefix: str = "") -> ScheduleTable | None:
    """The table made for a pipeline's class, of several the one of the nearest size; None without one.

    Args:
        target: a pipeline.
        prefix: of the names of tables to look at.
    """
    tables = [t for t in _all(prefix) if type(target).__name__ in t.pipelines]
    if len(tables) < 2:
        return tables[0] if tables else None
    size = sum(p.numel() for p in target.transformer.parameters())
    return min(tables, key=lambda table: abs(math.log(max(1, size) / max(1.0, table.parameters))))


def no_table(target: Any, prefix: str = "") -> str:
    """Why :func:`made_for` gives none: which classes there are tables for."""
    known = ", ".join(sorted({name for table in _all(prefix) for name in table.pipelines}))
    return expected("the pipeline", type(target).__name__, f"one there is a table for ({known})")


def _all(prefix: str) -> list[ScheduleTable]:
    return [published(name) for name in names() if name.startswith(prefix)]


def _folder() -> Path:
    return Path(str(resources.files("otcache.published")))
