"""Array files: safetensors, written row by row and sealed with a digest, read whole or mapped.

The format is eight bytes for the length of a JSON header, the header, and the arrays one after another; any
reader of safetensors reads these files. The fact ``sha256`` is the digest of the whole file with zeros in the
digest's place, by which a single flipped bit is found. The header is checked against the size of the file
before memory is allocated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import expected, shortened
from otcache_core.storage.files import bad_file, open_file, unreadable, whole_file
from otcache_core.storage.json_files import converted, parse_json
from otcache_core.storage.recordings import release

Arrays = dict[str, NDArray[Any]]
#: Types of both safetensors and NumPy, without complex numbers.
_TYPES = {
    **{f"F{8 * n}": np.dtype(f"<f{n}") for n in (8, 4, 2)},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (8, 4, 2, 1)},
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (8, 4, 2, 1)},
    "BOOL": np.dtype(np.bool_),
}
_WANTED = f"of real numbers that NumPy knows ({', '.join(_TYPES)})"
_NAMES = {kind.str: name for name, kind in _TYPES.items()}
_KIND = "a safetensors file"
_SEAL, _BLANK = "sha256", "0" * 64
_BEGINNING = f'{{"__metadata__": {{"{_SEAL}": "'
#: Most bytes of a header, bytes written or hashed at once, and alignment of a header's length.
_MAX_HEADER, _PART, _ALIGN = 2**24, 2**20, 8
_MAX_DIMENSIONS, _MAX_ELEMENTS = 32, 2**56


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class _Header:
    """The header of a file, checked against its size."""

    path: Path
    raw: bytes
    entries: dict[str, _Entry]
    facts: dict[str, str]

    @property
    def in_order(self) -> list[tuple[str, _Entry]]:
        """The arrays as they follow each other."""
        return sorted(self.entries.items(), key=lambda item: item[1].data_offsets)


def save_arrays(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str] | None = None
) -> str:
    """Write arrays and a few facts (strings) as safetensors, a few rows at a time, atomically.

    Args:
        path: the file.
        arrays: of real numbers without NaN; pages of memory maps are released on the way.
        facts: strings by name, other than ``sha256``.

    Returns:
        The digest of the file, which :func:`load_arrays` can check.

    Raises:
        FileError: if an array holds NaN or no real numbers, or the file cannot be written.
    """
    # Wider types first, as in safetensors: every array is then aligned to its type.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header = _layout(path, ordered, facts or {})
    digest = hashlib.sha256(header)
    with whole_file(path) as file:
        file.write(header)
        for name, array in ordered:
            for part in _parts(array):
                _check_numbers(path, name, part)
                data = part.reshape(-1).view(np.uint8).data
                digest.update(data)
                file.write(data)
                release(array)
        file.seek(8 + len(_BEGINNING))
        file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def load_arrays(
    path: str | Path, *, sealed: bool = False, digest: str | None = None
) -> tuple[Arrays, dict[str, str]]:
    """Read arrays and facts.

    Args:
        path: the file.
        sealed: refuse a file without a digest.
        digest: the expected one, if it is known.

    Raises:
        FileError: if the file is missing, damaged or no safetensors file, or holds NaN or types that
            NumPy lacks.
    """
    with open_file(path) as file:
        header = _header(Path(path), file)
        hashed = hashlib.sha256(_blanked(header))
        try:
            arrays = {name: _read(file, entry, hashed) for name, entry in header.in_order}
        except (OSError, MemoryError) as error:
            raise unreadable(path, error) from error
    _check_seal(header, hashed.hexdigest(), sealed or digest is not None)
    if digest not in (None, hashed.hexdigest()):
        advice = "the file is damaged or of another calibration."
        raise bad_file(path, expected("digest", hashed.hexdigest(), str(digest), advice))
    for name, array in arrays.items():
        _check_numbers(path, name, array)
    return {name: arrays[name] for name in sorted(arrays)}, _facts(header)


def map_arrays(path: str | Path, *, sealed: bool = False) -> tuple[Arrays, dict[str, str]]:
    """Read arrays as read-only memory maps, and facts.

    Args:
        path: the file.
        sealed: read the file once, and refuse it if its digest is wrong or missing; otherwise only the header
            is read.

    Raises:
        FileError: if the file is missing, damaged or no safetensors file.
    """
    with open_file(path) as file:
        header = _header(Path(path), file)
        if sealed:
            hashed = hashlib.sha256(_blanked(header))
            try:
                while data := file.read(_PART):
                    hashed.update(data)
            except OSError as error:
                raise unreadable(path, error) from error
            _check_seal(header, hashed.hexdigest(), sealed)
        try:
            arrays = {name: _map(file, header, entry) for name, entry in header.entries.items()}
        except (OSError, ValueError) as error:  # ValueError: it became shorter
            raise bad_file(path, f"cannot be mapped: {error}.") from error
    return arrays, _facts(header)


def array(
    path: str | Path, arrays: Arrays, name: str, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return one array of a file, as float64.

    Raises:
        FileError: if it is missing or of another shape.
    """
    if name not in arrays:
        got = ", ".join(sorted(arrays)) or "no array"
        raise bad_file(path, expected(f"field {name!r}", got, "among the arrays"))
    if arrays[name].shape != shape:
        got_shape = arrays[name].shape
        raise bad_file(path, expected(f"field {name!r}", got_shape, f"of shape {shape}"))
    return np.asarray(arrays[name], dtype=np.float64)


def _layout(
    path: str | Path, ordered: list[tuple[str, NDArray[Any]]], facts: Mapping[str, str]
) -> bytes:
    """Make the length and header of a file, with a blank digest."""
    seal = {_SEAL: _BLANK}  # first, so that its offset is known
    header: dict[str, Any] = {"__metadata__": seal | dict(facts) | seal}
    at = 0
    for name, array in ordered:
        kind = _NAMES.get(array.dtype.newbyteorder("<").str)
        if kind is None:
            raise bad_file(path, expected(f"field {name!r}", str(array.dtype), _WANTED))
        end = at + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def _parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield a few rows at a time, contiguous and in the byte order of the file."""
    kind = array.dtype.newbyteorder("<")
    if array.ndim < 2:
        yield np.ascontiguousarray(array, kind)
        return
    rows = max(1, _PART * len(array) // max(1, array.nbytes))
    for at in range(0, len(array), rows):
        yield np.ascontiguousarray(array[at : at + rows], kind)


def _header(path: Path, file: BinaryIO) -> _Header:
    try:
        size, prefix = os.fstat(file.fileno()).st_size, file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, _MAX_HEADER):
            got = f"a header of {length} bytes in a file of {size}"
            raise bad_file(path, f"truncated or not {_KIND}: {got}.")
        raw = file.read(length)
    except OSError as error:
        raise unreadable(path, error) from error
    data = parse_json(path, raw, kind=_KIND)
    if not isinstance(data, dict):
        raise bad_file(path, f"truncated or not {_KIND}: its header is not an object.")
    facts = converted(path, data.pop("__metadata__", None) or {}, dict[str, str])
    header = _Header(path, prefix + raw, converted(path, data, dict[str, _Entry]), facts)
    _check_layout(header, size - 8 - length)
    return header


def _check_layout(header: _Header, size: int) -> None:
    """Check that the arrays have valid types and shapes, and fill the file."""
    at = 0
    for name, entry in header.in_order:
        what = f"field {shortened(name, 100)!r}"
        if entry.dtype not in _TYPES:
            advice = "convert it to F32."
            raise bad_file(header.path, expected(what, entry.dtype, _WANTED, advice))
        begin, end = entry.data_offsets
        count = math.prod(entry.shape) if len(entry.shape) <= _MAX_DIMENSIONS else -1
        elements = math.prod(max(1, size) for size in entry.shape)  # as NumPy counts them
        if count < 0 or min(entry.shape, default=0) < 0 or elements > _MAX_ELEMENTS:
            wanted = f"of at most {_MAX_DIMENSIONS} dimensions and {_MAX_ELEMENTS} elements"
            raise bad_file(header.path, expected(what, entry.shape, wanted))
        if begin != at or end - begin != count * _TYPES[entry.dtype].itemsize:
            got = f"{end - begin} bytes from {begin} on for {entry.dtype} of shape {entry.shape}"
            text = f"truncated or not {_KIND}: {what} has {shortened(got)}, expected from {at} on."
            raise bad_file(header.path, text)
        at = end
    if at != size:
        text = f"truncated or not {_KIND}: {size} bytes of arrays, expected {at}."
        raise bad_file(header.path, text)


def _read(file: BinaryIO, entry: _Entry, hashed: Any) -> NDArray[Any]:
    array: NDArray[Any] = np.empty(entry.shape, _TYPES[entry.dtype])
    if array.size:
        flat = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # has a buffer
        if file.readinto(flat) != array.nbytes:  # type: ignore[attr-defined]  # of a plain file
            raise OSError("it became shorter while it was read")
        hashed.update(flat)
    return array


def _map(file: BinaryIO, header: _Header, entry: _Entry) -> NDArray[Any]:
    kind, (begin, end) = _TYPES[entry.dtype], entry.data_offsets
    if begin == end:
        return np.empty(entry.shape, kind)
    return np.memmap(file, kind, "r", len(header.raw) + begin, entry.shape)


def _blanked(header: _Header) -> bytes:
    """Return the header as it was hashed: zeros in the place of the digest."""
    digest = header.facts.get(_SEAL, "").encode()
    return header.raw.replace(digest, _BLANK.encode(), 1) if digest else header.raw


def _check_seal(header: _Header, found: str, needed: bool) -> None:
    wanted = header.facts.get(_SEAL)
    if wanted is None and not needed:
        return
    if wanted != found:
        got = f"that of {found}" if wanted is None else found
        text = expected("digest", got, wanted or "among its facts", "the file is damaged.")
        raise bad_file(header.path, text)


def _facts(header: _Header) -> dict[str, str]:
    return {name: text for name, text in header.facts.items() if name != _SEAL}


def _check_numbers(path: str | Path, name: str, values: NDArray[Any]) -> None:
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise bad_file(path, expected(f"field {name!r}", "NaN", "free of NaN"))
    if values.dtype == np.bool_ and values.size and values.view(np.uint8).max() > 1:
        raise bad_file(path, expected(f"field {name!r}", "other bytes", "of 0 and 1"))
