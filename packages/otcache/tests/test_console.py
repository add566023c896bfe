"""Text on consoles of every encoding: nothing raises, and what is written can be read."""

from __future__ import annotations

import encodings.aliases
import io
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from otcache.console import (
    UnwritableError,
    as_utf8,
    console_on,
    fitted,
    readable,
    readable_stream,
)


def _is_of_text(name: str) -> bool:
    try:
        return "abc".encode(name).decode(name) == "abc"
    except (LookupError, ValueError):
        return False


ENCODINGS = sorted({name for name in encodings.aliases.aliases.values() if _is_of_text(name)})
#: What we print, what file names hold, and anything else, lone surrogates among it.
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("█·…▸±\u00d7→↑∞│╭é日\udcff\ud800%\\")))


def _written(text: str, encoding: str, errors: str = "strict") -> str:
    """Return what a reader of the stream gets."""
    raw = io.BytesIO()
    stream = readable_stream(io.TextIOWrapper(raw, encoding, errors, newline=""))
    stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


@given(TEXTS, st.sampled_from(ENCODINGS))
@example("\x0e\x0f\x1b", "utf-8")
def test_every_encoding_takes_every_text(text: str, encoding: str) -> None:
    if encoding.startswith("iso2022"):  # these characters change the state of such a stream
        assume(not set(text) & set("\x1b\x0e\x0f"))
    shown = _written(text, encoding)
    if encoding in ("utf_8", "utf_16", "utf_32") and text.isprintable():
        assert shown == text
    assert readable(readable(text, encoding), encoding) == readable(text, encoding)


@given(st.text(st.characters(codec="cp1252")))
def test_what_an_encoding_has_stays_as_it_is(text: str) -> None:
    assert readable(text, "cp1252") == text


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "##..> x +-0.1 +-| inf Frechet \\u65e5 \\xff"),
        ("cp1252", "##·…> \u00d7 ±0.1 +-| inf Fréchet \\u65e5 \\xff"),
        ("cp437", "██·.> x ±0.1 +─│ ∞ Fréchet \\u65e5 \\xff"),
        ("utf-8", "██·…▸ \u00d7 ±0.1 ╭─│ ∞ Fréchet 日 \\xff"),
        ("no-such-encoding", "##..> x +-0.1 +-| inf Frechet \\u65e5 \\xff"),
    ],
)
def test_likenesses(encoding: str, shown: str) -> None:
    text = "██·…▸ \u00d7 ±0.1 ╭─│ ∞ Fréchet 日 \udcff"
    assert readable(text, encoding) == shown


@pytest.mark.parametrize(
    ("errors", "shown"),
    [("backslashreplace", "# \\u65e5"), ("replace", "# ?"), ("xmlcharrefreplace", "# &#26085;")],
)
def test_a_handler_that_was_asked_for_gets_what_has_no_likeness(errors: str, shown: str) -> None:
    assert _written("█ 日", "ascii", errors) == shown


def test_files_are_utf_8_whatever_a_name_holds() -> None:
    assert as_utf8("Fréchet \udcff").decode() == "Fréchet \\xff"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_columns_stay_aligned(encoding: str) -> None:
    table = Table("method", box=SIMPLE_HEAD, title="…")
    table.add_column(Text("±"))
    table.add_column("x")
    table.add_row(Text("▸ otcache\x1b[2J"), Text.assemble(("0.1 ±0.2", "bold"), "→"), "|")
    table.add_row("fewer", "1", "|")
    raw = io.BytesIO()
    console = console_on(io.TextIOWrapper(raw, encoding, write_through=True), width=60)
    console.print(fitted(Group(table, "…"), console.encoding))
    lines = [line for line in raw.getvalue().decode(encoding).splitlines() if "|" in line]
    assert len(lines) == 2
    assert len({line.index("|") for line in lines}) == 1
    assert "\\x1b" in lines[0]
    assert "\x1b" not in lines[0]


class Broken(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (BrokenPipeError(32, "Broken pipe"), True),
        (OSError(28, "No space left on device"), False),
        (ValueError("I/O operation on closed file."), False),
    ],
)
def test_a_stream_that_takes_nothing(error: Exception, left: bool) -> None:
    with pytest.raises(UnwritableError) as caught:
        readable_stream(Broken(error)).write("x")
    assert caught.value.reader_left is left
    readable_stream(Broken(error), silent=True).write("x")


def test_no_stream_at_all() -> None:
    stream: Any = readable_stream(None)
    assert (stream.write("x"), stream.isatty(), stream.closed) == (1, False, True)
    stream.flush()
    assert readable_stream(stream) is stream
