"""Files: versioned JSON for facts, safetensors for arrays, written whole or not at all.

A JSON file is one object ``{"format": ..., "version": ..., ...}``. Reading is strict: unknown keys,
values out of range, truncation, NaN, another format or version are a
:class:`~otcache_core.errors.FileError` that names file, field, got and expected. No pickle is used.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from otcache_core.errors import FileError, expected

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        FileError: as :func:`whole_file`.
    """
    with whole_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write atomically: a temporary one beside it, flushed to the disk, then renamed.

    Whatever goes wrong, the old file stays as it was and the temporary one is removed.

    Raises:
        FileError: if the disk is full, the folder is missing or may not be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{path}: cannot be written: {reason}; nothing was changed.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_bytes(path: str | Path) -> bytes:
    """The whole file.

    Raises:
        FileError: if it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from error


def save_json(path: str | Path, format: str, version: int, fields: msgspec.Struct) -> None:
    """Write the fields of a struct under an envelope of format and version.

    Raises:
        FileError: if a number is not finite, or the file cannot be written.
    """
    data = {"format": format, "version": version, **msgspec.to_builtins(fields)}
    _check_finite(path, data)
    text = msgspec.json.format(msgspec.json.encode(data), indent=1)
    write_bytes(path, text + b"\n")


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
    data = _parse(path, read_bytes(path))
    for field, wanted, advice in (
        ("format", format, "this is another kind of file."),
        ("version", version, "write it again with this version of otcache, or update otcache."),
    ):
        got = data.pop(field, None)
        if got != wanted or isinstance(got, bool):
            raise FileError(f"{path}: {expected(f'field {field!r}', got, repr(wanted), advice)}")
    _check_finite(path, data)
    try:
        return msgspec.convert(data, type, strict=True)
    except msgspec.ValidationError as error:
        raise FileError(f"{path}: {_located(str(error))}") from error


def read_json(path: str | Path) -> Any:
    """The value of a JSON file of another project, or one whose kind is not known yet.

    Raises:
        FileError: if it cannot be read, is truncated or no JSON, or a key is given twice.
    """
    return _decoded(path, read_bytes(path))


def save_arrays(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str] | None = None
) -> bytes:
    """Write arrays and a few facts (strings) as safetensors, atomically; returns the bytes written.

    Raises:
        FileError: if an array holds NaN, or the file cannot be written.
    """
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    _check_arrays(path, plain)
    data: bytes = save(plain, dict(facts) if facts else None)
    write_bytes(path, data)
    return data


def load_arrays(path: str | Path) -> tuple[Arrays, dict[str, str]]:
    """Read arrays and facts.

    Raises:
        FileError: if the file is missing, truncated or no safetensors file, or an array holds NaN.
    """
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
            facts = dict(file.metadata() or {})
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, ValueError, TypeError) as error:
        raise FileError(f"{path}: truncated or not a safetensors file: {error}.") from error
    _check_arrays(path, arrays)
    return arrays, facts


def array(
    path: str | Path, arrays: Arrays, name: str, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """One array of a file, as float64.

    Raises:
        FileError: if it is missing or of another shape.
    """
    if name not in arrays:
        got = ", ".join(sorted(arrays)) or "no array"
        raise FileError(f"{path}: {expected(f'field {name!r}', got, 'among the arrays')}")
    if arrays[name].shape != shape:
        got_shape = arrays[name].shape
        raise FileError(f"{path}: {expected(f'field {name!r}', got_shape, f'of shape {shape}')}")
    return np.asarray(arrays[name], dtype=np.float64)


def _parse(path: str | Path, raw: bytes) -> dict[str, Any]:
    data = _decoded(path, raw)
    if not isinstance(data, dict):
        raise FileError(f"{path}: {expected('the file', type(data).__name__, 'one JSON object')}")
    return data


def _decoded(path: str | Path, raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = f"{error}; expected one whole JSON value, got {len(raw)} bytes"
        raise FileError(f"{path}: truncated or not JSON: {reason}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)
        raise ValueError(f"field {twice!r} is given twice")
    return data


def _check_finite(path: str | Path, data: Any) -> None:
    for field, value in _numbers(data, ""):
        if not math.isfinite(value):
            raise FileError(f"{path}: {expected(f'field {field!r}', value, 'a finite number')}")


def _numbers(data: Any, field: str) -> Iterator[tuple[str, float]]:
    if isinstance(data, float):
        yield field, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _numbers(value, f"{field}.{key}".lstrip("."))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _numbers(value, f"{field}[{index}]")


def _check_arrays(path: str | Path, arrays: Arrays) -> None:
    for name, values in arrays.items():
        if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
            raise FileError(f"{path}: {expected(f'field {name!r}', 'NaN', 'free of NaN')}")


def _located(message: str) -> str:
    """Say "Expected X, got Y - at `$.a[0]`" as "field 'a[0]': Expected X, got Y"."""
    reason, _, place = message.partition(" - at `$")
    field = place.rstrip("`").lstrip(".")
    if "unknown field" in reason or "missing required field" in reason:
        where = f" in {field!r}" if field else ""
        return f"{reason}{where}."
    return f"field {field!r}: {reason.removesuffix('.')}."
