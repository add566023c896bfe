"""JSON files: our own, versioned and read strictly, and those of other projects.

A file of ours is one object ``{"format": ..., "version": ..., ...}``. Unknown keys, values out of range,
truncation, another format or version raise a :class:`~otcache_core.errors.FileError` that names file, field,
got and expected. So do, in every file, values that few other readers take: a key given twice, NaN, integers
beyond 64 bits, half a surrogate pair, deep nesting.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from otcache_core.errors import expected, shortened
from otcache_core.storage.files import MAX_BYTES, bad_file, read_bytes, write_bytes

T = TypeVar("T")
#: Most values in a file, and most levels of nested lists and objects.
MAX_VALUES, MAX_DEPTH = 4_000_000, 64
#: Characters of an integer of 64 bits with its sign.
_DIGITS = 20
_MARKS = {
    b"\xef\xbb\xbf": "UTF-8 with a byte order mark",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
#: Where a list or object is: the place of the one that holds it, and its key there.
_Place = tuple["_Place | None", object]


def save_json(path: str | Path, format: str, version: int, fields: msgspec.Struct) -> None:
    """Write the fields of a struct under an envelope of format and version.

    Raises:
        FileError: if a value would not be read again, or the file cannot be written.
    """
    data = {"format": format, "version": version, **msgspec.to_builtins(fields)}
    check_values(path, data)
    text = msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n"
    _check_count(path, text)
    if len(text) > MAX_BYTES:
        raise bad_file(path, expected("its size", len(text), f"at most {MAX_BYTES} bytes"))
    write_bytes(path, text)


def load_json(path: str | Path, format: str, version: int, type: type[T]) -> T:
    """Read what :func:`save_json` wrote.

    Args:
        path: the file.
        format: expected value of the field ``format``.
        version: expected value of the field ``version``.
        type: a ``msgspec.Struct`` with ``forbid_unknown_fields``, all the way down.

    Raises:
        FileError: naming file, field, got and expected.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise bad_file(path, expected("the file", data.__class__.__name__, "one JSON object"))
    for field, wanted, advice in (
        ("format", format, "this is another kind of file."),
        ("version", version, "write it again with this version of otcache, or update otcache."),
    ):
        got = data.pop(field, None)
        if got != wanted or isinstance(got, bool):
            raise bad_file(path, expected(f"field {field!r}", got, repr(wanted), advice))
    return converted(path, data, type)


def converted(path: str | Path, data: Any, type: type[T]) -> T:
    """Turn plain data of a file into a type.

    Raises:
        FileError: naming file, field, got and expected.
    """
    try:
        return msgspec.convert(data, type, strict=True)
    except (msgspec.ValidationError, OverflowError) as error:
        raise bad_file(path, _located(str(error))) from error


def read_json(path: str | Path) -> Any:
    """Read the value of a JSON file of another project, or of an unknown format.

    Raises:
        FileError: if it cannot be read, or as :func:`parse_json`.
    """
    return parse_json(path, read_bytes(path))


def parse_json(path: str | Path, raw: bytes, *, kind: str = "JSON", finite: bool = True) -> Any:
    """Parse a text in UTF-8 that holds one JSON value.

    Args:
        path: of the file, for messages.
        raw: the text.
        kind: of file, for messages.
        finite: refuse NaN and infinity.

    Raises:
        FileError: if it is truncated or no JSON, or :func:`check_values` refuses it.
    """
    for mark, got in _MARKS.items():
        if raw.startswith(mark):
            wanted = "UTF-8 without a byte order mark"
            raise bad_file(path, expected("the text", got, wanted, "save it as UTF-8."))
    _check_count(path, raw)
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = f"{_reason(error)}; expected one whole JSON value, got {len(raw)} bytes"
        raise bad_file(path, f"truncated or not {kind}: {reason}.") from error
    check_values(path, data, finite=finite)
    return data


def check_values(path: str | Path, data: Any, *, finite: bool = True) -> None:
    """Check that every value of plain data can be written to JSON and read by other programs.

    Args:
        path: of the file, for messages.
        data: None, booleans, numbers, texts, lists and objects.
        finite: refuse NaN and infinity.

    Raises:
        FileError: if a number is not finite, an integer takes more than 64 bits, a text holds half a
            surrogate pair, or lists and objects are more than ``MAX_DEPTH`` levels deep.
    """
    open_: list[tuple[Iterator[tuple[object, object]], _Place | None]] = [(_entries((data,)), None)]
    while open_:
        entries, place = open_[-1]
        for key, value in entries:
            deeper = isinstance(value, dict | list | tuple) and len(open_) <= MAX_DEPTH
            wanted = _wanted(key, finite) or ("" if deeper else _wanted(value, finite))
            if wanted:
                got = key if _wanted(key, finite) else value
                raise bad_file(path, expected(f"field {_field((place, key))!r}", got, wanted))
            if deeper:
                open_.append((_entries(value), (place, key)))
                break
        else:
            open_.pop()


def _check_count(path: str | Path, text: bytes) -> None:
    """Check that a text of JSON holds at most ``MAX_VALUES`` values."""
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
        got = f"more than {MAX_VALUES}"
        raise bad_file(path, expected("the number of its values", got, f"at most {MAX_VALUES}"))


def _entries(holder: Any) -> Iterator[tuple[object, object]]:
    return iter(holder.items() if isinstance(holder, dict) else enumerate(holder))


def _wanted(value: object, finite: bool) -> str:
    """Return what a value should be instead; "" if it is valid."""
    if isinstance(value, float):
        return "a finite number" if finite and not math.isfinite(value) else ""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**64 else "an integer of 64 bits"
    if isinstance(value, str):
        return "" if value.isascii() or _encodable(value) else "text without lone surrogates"
    deep = isinstance(value, dict | list | tuple)
    return f"at most {MAX_DEPTH} levels deep" if deep else ""


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _field(place: _Place) -> str:
    """Write a place as ``a.b[3]``."""
    keys: list[object] = []
    inner: _Place | None = place
    while inner is not None and inner[0] is not None:
        inner, key = inner
        keys.append(key)
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in reversed(keys)]
    return "".join(parts).lstrip(".")


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"field {shortened(twice, 100)!r} is given twice")
    return data


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "lists and objects are nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return f"line {line} holds the byte {error.object[error.start]:#04x}, which is not UTF-8"
    return str(error)


def _located(message: str) -> str:
    """Turn "Expected X, got Y - at `$.a[0]`" into "field 'a[0]': Expected X, got Y"."""
    reason, _, place = (
        message.rpartition(" - at `$") if " - at `$" in message else (message, "", "")
    )
    field, reason = shortened(place.rstrip("`").lstrip(".")), shortened(reason)
    if "unknown field" in reason or "missing required field" in reason:
        where = f" in {field!r}" if field else ""
        return f"{reason}{where}."
    where = f"field {field!r}: " if field else ""
    return f"{where}{reason.removesuffix('.')}."
