"""One JSON document on standard output, whatever else is printed while a verb works."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, TextIO, cast

from otcache.console import readable_stream

#: Descriptors of standard output and standard error.
OUT, ERR = 1, 2
_DOCUMENT: ContextVar[TextIO | None] = ContextVar("otcache_document", default=None)
_ENDING: ContextVar[bool] = ContextVar("otcache_ending", default=False)


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
    """The process ends after the verb inside: what is printed until then goes to standard error too."""
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
            with suppress(OSError, ValueError):  # told where it was written
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
    """Let descriptor 1 write where another does; nowhere if that is closed."""
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
    """Return a standard output that is standard error; whoever closes it closes neither."""
    text = io.TextIOWrapper(_StandardError(), "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]  # raw is enough where nothing is buffered
    return readable_stream(cast(TextIO, text), silent=True)


class _StandardError(io.RawIOBase):
    """The bytes of whatever standard error is at the time."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return OUT  # where standard error's is while this is in its place

    def write(self, data: Any, /) -> int:
        raw = bytes(data)
        readable_stream(sys.stderr, silent=True).write(raw.decode("utf-8", "replace"))
        return len(raw)
