"""What verbs print: facts, tables, or one JSON document and nothing else."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, TextIO, cast

from rich.console import RenderableType
from rich.text import Text

from otcache.console import console_on, fact_text, fitted, print_line, readable_stream, wide_enough

#: Columns of a table, and of a wide one, at least: a narrower terminal breaks lines, but cuts nothing off.
LEAST, TABLE_WIDTH = 80, 104
#: Descriptors of standard output and standard error.
OUT, ERR = 1, 2
_DOCUMENT: ContextVar[TextIO | None] = ContextVar("otcache_document", default=None)
_ENDING: ContextVar[bool] = ContextVar("otcache_ending", default=False)


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
    """Print one line for each fact that is not empty, or one JSON document of all."""
    if as_json:
        show_json(facts)
        return
    for name, value in facts.items():
        parts = value.values() if isinstance(value, dict) else [value]
        if any(parts) or isinstance(value, str):
            show_line(Text.assemble((name, "bold"), f": {fact_text(value)}"))


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
    print_line(text, console_on(sys.stdout))


def say(text: str, style: str) -> None:
    """Print one line on standard error; nothing if that is closed."""
    print_line(Text(f"otcache: {text}", style), console_on(sys.stderr, silent=True))


def json_alone(verb: Callable[..., None]) -> Callable[..., None]:
    """Send all that is printed while a verb works with ``--json`` to standard error, but its document.

    So ``print``, descriptor 1, C libraries and child processes cannot spoil it.
    """

    @wraps(verb)
    def alone(**given: Any) -> None:
        with _printed_aside() if given.get("as_json") else nullcontext():
            verb(**given)

    return alone


@contextmanager
def ending() -> Iterator[None]:
    """Mark that the process ends after the verb inside: what is printed then goes to standard error too."""
    token = _ENDING.set(True)
    try:
        yield
    finally:
        _ENDING.reset(token)


def document_stream() -> TextIO:
    """Return where the one document of a verb is written."""
    return _DOCUMENT.get() or readable_stream(sys.stdout)


@contextmanager
def _printed_aside() -> Iterator[None]:
    """Put standard error in the place of standard output, its descriptor included."""
    out = sys.stdout
    real = _descriptor(out) == OUT
    _flush(out)
    _flush(sys.__stdout__)
    saved = _copy_of(OUT)
    own = _reopened(out, saved) if real and saved is not None else None
    token = _DOCUMENT.set(readable_stream(own or out))
    sys.stdout = aside = _aside()
    _point_out_at(ERR)
    kept = real and _ENDING.get()
    try:
        yield
    finally:
        sys.stdout = aside if kept else out
        _DOCUMENT.reset(token)
        if own is not None:
            with suppress(OSError, ValueError):  # reported where it was written
                own.close()
        _flush(sys.__stdout__)
        if not kept:
            _point_out_at(saved)
        if saved is not None:
            os.close(saved)


def _descriptor(stream: TextIO | None) -> int | None:
    """Return the descriptor of a stream; None of one that has none."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _flush(stream: TextIO | None) -> None:
    with suppress(Exception):  # whatever a plugin made of it
        if stream is not None:
            stream.flush()


def _copy_of(descriptor: int) -> int | None:
    """Return another descriptor of the same file, which children do not have; None of a closed one."""
    try:
        return os.dup(descriptor)
    except OSError:
        return None


def _reopened(stream: TextIO, descriptor: int) -> TextIO:
    """Return a stream that writes to a descriptor as another stream does."""
    errors = getattr(stream, "errors", None)
    copy = os.dup(descriptor)
    return open(copy, "w", encoding=stream.encoding, errors=errors)


def _point_out_at(descriptor: int | None) -> None:
    """Let descriptor 1 write to what another one writes to; to nothing if that is closed."""
    if descriptor is None:
        with suppress(OSError):
            os.close(OUT)
        return
    try:
        os.dup2(descriptor, OUT)
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, OUT)
        os.close(nothing)


def _aside() -> TextIO:
    """Return a standard output that is standard error; closing it closes neither."""
    text = io.TextIOWrapper(_StandardError(), "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]  # raw is enough where nothing is buffered
    return readable_stream(cast(TextIO, text), silent=True)


class _StandardError(io.RawIOBase):
    """Write bytes to what standard error is at the time."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return OUT  # while this is in its place that is standard error

    def write(self, data: Any, /) -> int:
        raw = bytes(data)
        readable_stream(sys.stderr, silent=True).write(raw.decode("utf-8", "replace"))
        return len(raw)
