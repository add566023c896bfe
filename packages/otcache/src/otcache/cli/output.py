"""What verbs print: facts, tables and JSON on standard output, one line on standard error."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from otcache.cli.json_alone import document_stream
from otcache.console import console_on, fact_text, fitted, wide_enough

#: Columns of a table, and of a wide one, at least: a narrower terminal breaks lines, but cuts nothing off.
LEAST, TABLE_WIDTH = 80, 104


def show_table(content: RenderableType, *, least: int = LEAST, highlight: bool = True) -> None:
    """Print tables and texts, laid out for the terminal.

    Args:
        content: a table, a text or a group of those.
        least: columns to lay out for, however narrow the terminal.
        highlight: colour numbers in texts.
    """
    console = wide_enough(content, sys.stdout, least=least)
    console.print(fitted(content, console.encoding), highlight=highlight)


def table_width() -> int:
    """Return the columns that a wide table may take: those of the terminal, if there is one."""
    console = console_on(sys.stdout)
    return max(LEAST if console.is_terminal else TABLE_WIDTH, console.width)


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print a line a fact that says something, or one JSON document of all."""
    if as_json:
        show_json(facts)
        return
    for name, value in facts.items():
        if not _says_something(value):
            continue
        show_line(Text.assemble((name, "bold"), f": {fact_text(value)}"))


def _says_something(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else [value]
    return any(bool(part) or isinstance(value, str) for part in parts)


def show_json(data: Any) -> None:
    """Print one JSON document in ASCII; a number that is not finite becomes null."""
    stream = document_stream()
    stream.write(json.dumps(_finite(data), indent=2, default=str) + "\n")
    stream.flush()


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def show_line(text: str | Text) -> None:
    """Print one line as it is: a path or command in it can be copied."""
    _line(text, console_on(sys.stdout))


def say(text: str, style: str) -> None:
    """Print one line on standard error; nothing where that is closed."""
    _line(Text(f"otcache: {text}", style), console_on(sys.stderr, silent=True))


def _line(text: str | Text, console: Console) -> None:
    shown = fitted(text, console.encoding)
    console.print(shown, markup=False, highlight=False, soft_wrap=True)
