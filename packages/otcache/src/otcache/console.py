"""Text that every console can show: characters that its encoding lacks are replaced by readable ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO, cast

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

#: One character for one where the place of the next one matters: tables are laid out before.
GLYPHS = {
    **dict.fromkeys("█▉▊▋▌▍▎▏▐▀▄■▮▓", "#"),
    **dict.fromkeys("·∙⋅•░…", "."),
    **dict.fromkeys("▸▶→⇒\u203a", ">"),
    **dict.fromkeys("◂◀←⇐\u2039", "<"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u00d7✗✘", "x"),
    **dict.fromkeys("↓✓", "v"),
    **dict(zip("▒↑≈øØ", ":^~oO", strict=True)),
    "ß": "ss",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "∞": "inf",
}
#: Longer ones, for text that is laid out afterwards.
WORDS = {"…": "...", "→": "->", "↑": "(up)", "↓": "(down)"}
#: Characters that control a terminal, but for line ends and tabs.
CONTROLS = {chr(n) for n in (*range(32), 127, *range(128, 160))} - {"\n", "\t"}
#: Columns of a console on which every table fits.
WIDEST = 10_000
#: Error handlers with which a stream fails, or shows escapes where a readable character exists.
FAILING = ("strict", "surrogateescape", "backslashreplace")
#: A line below the head and no other, as rich's SIMPLE_HEAD.
PLAIN_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def readable(text: str, encoding: str | None, *, rest: bool = True) -> str:
    r"""Return a text whose characters the encoding has.

    A missing character becomes an ASCII look-alike, a letter without its accent, or ``\u65e5``; the byte of a
    file name that is not text becomes ``\xff``.

    Args:
        text: of any characters, lone surrogates among them.
        encoding: of a stream; one that is unknown counts as ASCII, None as UTF-8.
        rest: escape what has no look-alike, instead of leaving it to the stream.
    """
    encodable = _encodable(encoding)
    if encodable(text):
        return text
    return "".join(c if encodable(c) else _substitute(c, encodable, rest) for c in text)


def fact_text(value: object) -> str:
    """Return a fact without the brackets of its type: ``record 32, ladder 52``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {fact_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(fact_text, value)) or "none"
    if type(value) is int:
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_utf8(text: str) -> bytes:
    """Return a text as the bytes of a file; half a surrogate pair, which no file can hold, is escaped."""
    return readable(text, "utf-8").encode()


def _encodable(encoding: str | None) -> Callable[[str], bool]:
    try:
        "".encode(encoding or "utf-8")
    except (LookupError, ValueError):
        encoding = "ascii"

    def check(text: str) -> bool:
        try:
            text.encode(encoding or "utf-8")
        except UnicodeError:
            return False
        return True

    return check


def _substitute(character: str, encodable: Callable[[str], bool], rest: bool) -> str:
    for likeness in _likenesses(character):
        if likeness and encodable(likeness):
            return likeness
    if not rest:
        return character
    escaped = _escape(character)
    return escaped if encodable(escaped) else "?" if encodable("?") else ""


def _likenesses(character: str) -> Iterator[str]:
    yield GLYPHS.get(character, "")
    if "\u2500" <= character <= "\u257f":
        yield _corner(character)
    plain = unicodedata.normalize("NFKD", character)
    yield "".join(c for c in plain if not unicodedata.combining(c))
    yield "".join(c for c in plain if c.isascii())


def _corner(character: str) -> str:
    """Draw a box by hyphens, bars and plus signs."""
    name = unicodedata.name(character)
    if "AND" in name or "ARC" in name:
        return "+"
    return "-" if "HORIZONTAL" in name else "|" if "VERTICAL" in name else "+"


def _escape(character: str) -> str:
    number = ord(character)
    if number < 256:
        return f"\\x{number:02x}"
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode("ascii")


class UnwritableError(Exception):
    """Standard output cannot be written; no OSError, which libraries on the way would handle themselves.

    Args:
        reason: the error of the system.
        reader_left: the reader closed the pipe, as ``head`` does once it has its lines.
    """

    def __init__(self, reason: str, *, reader_left: bool = False) -> None:
        super().__init__(reason)
        self.reader_left = reader_left


class ReadableStream:
    """A text stream that takes every character; all but writing is the stream's own.

    Args:
        stream: None, of a process that has none, drops everything.
        silent: drop what cannot be written, as progress on a terminal that is closed.

    Raises:
        UnwritableError: if it cannot be written, unless silent.
    """

    def __init__(self, stream: TextIO | None, *, silent: bool = False) -> None:
        self._stream, self._silent = stream, silent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        """Of the stream, UTF-8 if it has none."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def closed(self) -> bool:
        """Whether nothing can be written to it any more."""
        return self._stream is None or bool(getattr(self._stream, "closed", False))

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def write(self, text: str) -> int:
        """Write a text, with readable characters for those that the encoding lacks."""
        rest = getattr(self._stream, "errors", None) in (None, *FAILING)
        self._do("write", readable(text, self.encoding, rest=rest))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        self._do("flush")

    def _do(self, what: str, *arguments: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, what)(*arguments)
        except (OSError, ValueError) as error:
            if not self._silent:
                raise _unwritable(error) from error


def _unwritable(error: OSError | ValueError) -> UnwritableError:
    reason = getattr(error, "strerror", None) or str(error)
    # Windows reports a pipe without a reader as an invalid argument.
    reader_left = isinstance(error, BrokenPipeError) or getattr(error, "winerror", None) in (
        109,
        232,
    )
    return UnwritableError(reason, reader_left=reader_left)


def readable_stream(stream: TextIO | None, *, silent: bool = False) -> TextIO:
    """Return the stream as one that takes every character; one that does already as it is."""
    if isinstance(stream, ReadableStream):
        return cast(TextIO, stream)
    return cast(TextIO, ReadableStream(stream, silent=silent))


def console_on(stream: TextIO | None, *, silent: bool = False, **options: Any) -> Console:
    """Return a rich console that knows the encoding of its stream, and never fails on a character."""
    return Console(file=readable_stream(stream, silent=silent), **options)


def print_line(text: str | Text, console: Console) -> None:
    """Print one line as it is, in characters of the console's encoding."""
    shown = fitted(text, console.encoding)
    console.print(shown, markup=False, highlight=False, soft_wrap=True)


def wide_enough(
    content: RenderableType, stream: TextIO | None, *, least: int = 0, silent: bool = False
) -> Console:
    """Return a console on which no cell of the tables in it is cut; the terminal breaks longer lines.

    Columns that do not wrap need their longest line, others their longest word.

    Args:
        content: a table, a text or a group of those.
        stream: of the console.
        least: columns to lay out for, however narrow the terminal.
        silent: as in :class:`ReadableStream`.
    """
    console, needed = console_on(stream, silent=silent), max(least, _needed(content))
    return console if console.width >= needed else console_on(stream, silent=silent, width=needed)


def _needed(content: RenderableType) -> int:
    if isinstance(content, Group):
        return max(map(_needed, content.renderables), default=0)
    if not isinstance(content, Table):
        return 0
    for column in content.columns:
        if column.no_wrap and column.min_width is None:
            lines = [
                line for cell in (column.header, *column.cells) for line in str(cell).split("\n")
            ]
            column.min_width = max(map(cell_len, lines))
    return Console(width=WIDEST).measure(content).minimum


def fitted(content: RenderableType, encoding: str) -> RenderableType:
    """Return content in the characters of an encoding before it is laid out, so that columns stay aligned.

    Control characters, which a file name may hold, are escaped.

    Args:
        content: a text, a table of texts or a group of those; of anything else the stream takes care.
        encoding: of the console.
    """
    if isinstance(content, str):
        return _worded(content, encoding)
    if isinstance(content, Text):
        return _fitted_text(content, encoding)
    if isinstance(content, Group):
        return Group(*(fitted(part, encoding) for part in content.renderables), fit=content.fit)
    if isinstance(content, Table):
        _fit_table(content, encoding)
    return content


def _worded(text: str, encoding: str) -> str:
    encodable = _encodable(encoding)
    plain = "".join(_escape(c) if c in CONTROLS else c for c in text)
    if encodable(plain):
        return plain
    worded = "".join(WORDS.get(c, c) if not encodable(c) else c for c in plain)
    return readable(worded, encoding)


def _fitted_text(text: Text, encoding: str) -> Text:
    if _worded(text.plain, encoding) == text.plain:
        return text
    fitted = text.blank_copy()
    for character in text.divide(range(1, len(text))):
        plain = _worded(character.plain, encoding)
        style = character.spans[0].style if character.spans else ""
        fitted.append(plain, style or None)
    return fitted


def _fit_table(table: Table, encoding: str) -> None:
    table.title = table.title and _part(table.title, encoding)
    table.caption = table.caption and _part(table.caption, encoding)
    if table.box is not None and not table.box.ascii and not _encodable(encoding)(str(table.box)):
        table.box = PLAIN_HEAD
    for column in table.columns:
        column.header = fitted(column.header, encoding)
        column._cells = [fitted(cell, encoding) for cell in column.cells]


def _part(content: str | Text, encoding: str) -> str | Text:
    return cast("str | Text", fitted(content, encoding))
