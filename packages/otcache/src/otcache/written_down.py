"""An object as plain data: its class and its fields, as a calibration's identity holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec
import numpy as np

from otcache_core import OtcacheError
from otcache_core.errors import expected


def written_down(name: str, value: object) -> Any:
    """Return the plain data that stands for a value: two values of the same data do the same.

    A dataclass object is its class and its fields, one without any state its class, an array the digest of
    what it holds; numbers, texts, None, sequences and mappings of those are themselves.

    Args:
        name: of the value, for the message.
        value: what is to be written down.

    Raises:
        OtcacheError: if it holds something else, such as a function, or its class has no name to import.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        whole = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"dtype": value.dtype.str, "shape": list(value.shape), "sha256": whole}
    if isinstance(value, (list, tuple)):
        return [written_down(f"{name}[{i}]", part) for i, part in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: written_down(f"{name}[{key!r}]", part) for key, part in value.items()}
    kind = type(value)
    state = _state(value)
    if state is None or "<locals>" in kind.__qualname__:
        raise OtcacheError(
            expected(
                name,
                f"an object of {kind.__qualname__}",
                "a name or a dataclass object of plain values, which directory= keeps by class and fields",
                "make it such a dataclass at the top of a module, or leave out directory.",
            )
        )
    data = {key: written_down(f"{name}.{key}", part) for key, part in state.items()}
    return {"class": f"{kind.__module__}:{kind.__qualname__}", "fields": data}


def _state(value: object) -> dict[str, Any] | None:
    """What an object holds, by name; None where that is not known."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    bare = not callable(value) and getattr(value, "__dict__", None) == {}
    return (
        {} if bare and not any(getattr(c, "__slots__", ()) for c in type(value).__mro__) else None
    )
