"""Samples as users give them: prompts, or mappings of call arguments, and the seeds of their noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from otcache_core.errors import OtcacheError, expected
from otcache_core.numbers import integer

#: A prompt, or the call arguments that are this sample's own, by name.
Sample: TypeAlias = str | Mapping[str, Any]
#: Most samples: a longer iterator may be endless.
MOST = 10_000
#: The largest seed that torch.Generator.manual_seed takes.
LARGEST_SEED = 2**64 - 1
_PROMPT = "prompt"


def samples_of(prompts: object) -> tuple[Sample, ...]:
    """Return one sample for each entry, as plain texts and dictionaries.

    Args:
        prompts: a list, an array, a series, an iterator; or a data frame, of which each row is a mapping.
            Entries are texts, or mappings of call arguments, all with the same keys.

    Raises:
        OtcacheError: if there are none or above 10,000, or one is neither a text nor a mapping, or has
            other keys than the first.

    Examples:
        >>> samples_of(["a cat", {"prompt": "a dog"}])
        ('a cat', {'prompt': 'a dog'})
    """
    if hasattr(prompts, "columns") and hasattr(prompts, "to_dict"):  # iterates over column names
        prompts = prompts.to_dict("records")
    entries = _listed("prompts", prompts, "prompt or mapping of call arguments")
    found = tuple(_sample(n, entry) for n, entry in enumerate(entries))
    first = keys_of(found[0])
    for n, sample in enumerate(found):
        if keys_of(sample) != first:
            got, wanted = (", ".join(sorted(keys)) for keys in (keys_of(sample), first))
            what, wanted = f"arguments of prompts[{n}]", f"those of prompts[0], {wanted}"
            advice = "all samples of one calibration have the same ones; measure others apart."
            raise OtcacheError(expected(what, got, wanted, advice))
    return found


def seeds_of(seeds: object) -> tuple[int, ...]:
    """Return the seeds as plain integers, of any kind of row.

    Raises:
        OtcacheError: if there are none or above 10,000, or one is not an integer between 0 and 2^64 - 1.

    Examples:
        >>> seeds_of(range(3))
        (0, 1, 2)
    """
    entries = _listed("seeds", seeds, "integer")
    return tuple(seed_of(entry, f"seeds[{n}]") for n, entry in enumerate(entries))


def seed_of(seed: object, name: str = "seed") -> int:
    """Return a seed as a plain integer.

    Raises:
        OtcacheError: if it is not an integer between 0 and 2^64 - 1, which torch's generators take.
    """
    return integer(name, seed, 0, LARGEST_SEED, advice="the range of torch.Generator.manual_seed.")


def keys_of(sample: Sample) -> frozenset[str]:
    """Return the names of the call arguments that a sample gives; ``prompt`` for a text."""
    return frozenset((_PROMPT,) if isinstance(sample, str) else sample)


def arguments_of(sample: Sample) -> dict[str, Any]:
    """Return a sample as call arguments."""
    return {_PROMPT: sample} if isinstance(sample, str) else dict(sample)


def content(value: object) -> Any:
    """Return plain data that differ wherever values do; images, arrays and tensors by a digest.

    Two objects of equal content have the same record in every process, so that what was measured with them
    is found again. Functions have their qualified names.

    Examples:
        >>> content({"scale": 3.0, "image": np.zeros((2, 2))})["image"][:3]
        ['array', 'float64', [2, 2]]
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return content(value.item())
    if isinstance(value, Mapping):
        return {str(key): content(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [content(entry) for entry in value]
    if hasattr(value, "detach"):
        tensor: Any = value
        return ["tensor", str(tensor.dtype), *_digested(_host(tensor))[1:]]
    if isinstance(value, np.ndarray):
        return ["array", *_digested(value)]
    if is_image(value):
        image: Any = value
        return ["image", image.mode, *_digested(np.asarray(image))[1:]]
    return _name(value)


def digest(data: Any) -> str:
    """Return a short stable hash of plain data."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_image(value: object) -> bool:
    """Return whether a value is an image of Pillow, which need not be installed."""
    return all(hasattr(value, name) for name in ("mode", "size", "getbands", "tobytes"))


def brief(sample: Sample) -> str:
    """Describe a mapping in a few words, for the label of what was measured; "" of a text."""
    if isinstance(sample, str):
        return ""
    parts = []
    for name, value in sample.items():
        record = content(value)
        long = isinstance(record, (list, dict)) or len(str(record)) > 40
        text = hashlib.sha256(repr(record).encode()).hexdigest()[:8] if long else repr(record)
        parts.append(f"{name}={text}")
    return ", ".join(parts)


def _listed(name: str, values: object, of: str) -> list[Any]:
    wanted = f"{name} must be a list with at least one {of}"
    if isinstance(values, (str, bytes, Mapping)) or values is None:
        one = isinstance(values, (str, Mapping)) and name == "prompts"
        advice = ": give a list of one, [...]." if one else "."
        raise OtcacheError(f"{wanted}, got {type(values).__name__}{advice}")
    if isinstance(values, Set):
        raise OtcacheError(f"{wanted}, got a set, whose order changes: give a list.")
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        shape = getattr(values, "shape", None)
        got = repr(values) if shape is None else f"an array of shape {tuple(shape)}"
        raise OtcacheError(f"{wanted}, got {got[:100]}: give a list, of one dimension.")
    found = list(islice(iter(values), MOST + 1))
    if not found:
        raise OtcacheError(f"{wanted}, got an empty one.")
    if len(found) > MOST:
        raise OtcacheError(f"{wanted} and at most {MOST:,}, got more.")
    return found


def _sample(n: int, entry: object) -> Sample:
    if isinstance(entry, str):
        return str(entry)
    if isinstance(entry, Mapping) and entry and all(isinstance(key, str) for key in entry):
        return dict(entry)
    label = isinstance(entry, (int, np.integer)) and not isinstance(entry, bool)
    advice = f'a class label is given as {{"class_labels": {entry}}}.' if label else ""
    got: object = entry if len(repr(entry)) < 100 else type(entry).__name__
    raise OtcacheError(
        expected(f"prompts[{n}]", got, "a text or a mapping of call arguments", advice)
    )


def _host(tensor: Any) -> np.ndarray[Any, Any]:
    found = tensor.detach().cpu()
    try:
        return np.asarray(found.numpy())
    except (TypeError, RuntimeError):  # bfloat16, and others that NumPy lacks: exact in float32
        return np.asarray(found.float().numpy())


def _digested(array: np.ndarray[Any, Any]) -> Sequence[Any]:
    opaque = array.dtype.hasobject
    data = repr(array.tolist()).encode() if opaque else np.ascontiguousarray(array).tobytes()
    return [str(array.dtype), list(array.shape), hashlib.sha256(data).hexdigest()[:16]]


def _name(value: object) -> str:
    """Return the name of an object without data; not its address, which changes with the process."""
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    text = repr(value)
    return name if " at 0x" in text else f"{name}: {text}"
