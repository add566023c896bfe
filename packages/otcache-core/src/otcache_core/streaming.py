"""Array files that are larger than memory: written row by row, read through memory maps.

The format is that of :mod:`otcache_core.files` (safetensors: eight bytes that tell the length of a JSON
header, the header, the arrays one after another), so that either reads what the other wrote.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import FileError
from otcache_core.files import Arrays, whole_file
from otcache_core.slabs import release

_NAMES = {"<f8": "F64", "<f4": "F32", "<f2": "F16"}
_TYPES = {name: np.dtype(kind) for kind, name in _NAMES.items()}
_ALIGN = 8


def stream_arrays(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str]
) -> None:
    """Write arrays of floating point and a few facts, a row at a time, atomically.

    Args:
        path: the file.
        arrays: of float64, float32 or float16, finite; memory maps give their pages back on the way.
        facts: strings by name.

    Raises:
        FileError: if the file cannot be written.
    """
    # Wider types first, as safetensors has it: every array then begins where its type may.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(facts)}
    at = 0
    for name, array in ordered:
        kind, end = _NAMES[array.dtype.newbyteorder("<").str], at + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGN)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            for row in np.atleast_2d(array):
                file.write(np.ascontiguousarray(row, array.dtype.newbyteorder("<")).data)
                release(array)


def map_arrays(path: str | Path) -> tuple[Arrays, dict[str, str]]:
    """Arrays of floating point as read-only memory maps, and facts; only the header is read.

    Raises:
        FileError: if the file is missing, truncated or no safetensors file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            header = json.loads(file.read(min(length, size)))
        facts = header.pop("__metadata__", {})
        arrays = {name: _map(path, entry, 8 + length, size) for name, entry in header.items()}
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: truncated or not a safetensors file: {error}.") from error
    return arrays, cast("dict[str, str]", facts)


def _map(path: Path, entry: dict[str, Any], start: int, size: int) -> NDArray[Any]:
    kind, shape, (begin, end) = _TYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if end - begin != kind.itemsize * math.prod(shape) or not 0 <= begin <= end <= size - start:
        raise ValueError(f"{end - begin} bytes for an array of shape {shape}, {size} in the file")
    if begin == end:
        return np.empty(shape, kind)
    return np.memmap(path, kind, "r", start + begin, shape)
