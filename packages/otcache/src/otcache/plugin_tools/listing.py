"""The list of installed plugins, and the kinds as users write them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from otcache_core.errors import OtcacheError, expected
from otcache_core.plugins import KINDS, Registry
from otcache_core.plugins.plugin_scan import LIMIT


def plugin_rows(registry: Registry, kinds: Iterable[str]) -> list[dict[str, Any]]:
    """Return what is installed of some kinds as plain data; foreign hooks are read in child processes."""
    return [
        {
            "kind": kind,
            "name": offer.info.name,
            "distribution": offer.distribution,
            "summary": offer.info.summary,
            "missing": list(offer.info.missing()),
        }
        for kind in kinds
        for offer in registry.infos(kind)
    ]


def slow_modules(registry: Registry) -> list[str]:
    """Return the foreign modules that take long to import, each with its distribution and seconds."""
    return [
        f"{result.distribution} ({result.module}, {result.seconds:.1f} s)"
        for result in registry.scan()
        if result.seconds >= LIMIT or any(found.kind == "slow" for found in result.findings)
    ]


def plugin_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return a line a plugin, those of a kind below its name; with what it lacks, if anything."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("summary")
    table.add_column("distribution", no_wrap=True)
    kind = ""
    for row in rows:
        if row["kind"] != kind:
            kind = row["kind"]
            table.add_row(Text(kind, style="bold"))
        lacks = f" (not installed: {', '.join(row['missing'])})" if row["missing"] else ""
        about = Text(row["summary"] + lacks)
        table.add_row(Text(f"  {row['name']}"), about, Text(row["distribution"]))
    return table


def spelled(kind: str) -> str:
    """Return a kind as one plugin of it is called on the command line: ``cost-model`` of ``cost_models``."""
    return kind.removesuffix("s").replace("_", "-")


def in_words(kind: str) -> str:
    """Return a kind as one plugin of it is called in a sentence: ``cost model`` of ``cost_models``."""
    return spelled(kind).replace("-", " ")


def read_kind(text: str, kinds: Iterable[str] = KINDS) -> str:
    """Return the kind that a text names: in singular or plural, with hyphens, underscores or spaces.

    Args:
        text: as the user wrote it.
        kinds: those that may be named.

    Raises:
        OtcacheError: if it names none of them.
    """
    allowed = {spelled(kind): kind for kind in kinds}
    word = text.strip().lower().replace("_", "-").replace(" ", "-").removesuffix("s")
    if word in allowed:
        return allowed[word]
    near = difflib.get_close_matches(word, allowed, n=1)
    hint = f"did you mean {near[0]!r}?" if near else ""
    raise OtcacheError(expected("kind", text, f"one of {', '.join(allowed)}", hint))
