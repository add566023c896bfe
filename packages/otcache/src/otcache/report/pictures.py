"""Pictures for a report: checked, shrunk and encoded."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.results import FULL, Results
from otcache_core import OtcacheError
from otcache_core.errors import expected

Picture = NDArray[np.floating]
Pictures = Mapping[tuple[str, int], Picture]
Shape = tuple[int, ...]
#: Pixels of the longer side of a picture in a report.
LARGEST = 256


def check_pictures(
    results: Results, pictures: Mapping[tuple[str, int], NDArray[Any]], dtype: type = np.floating
) -> None:
    """Whether every stack of pictures, or of clips, fits the results.

    Args:
        results: one label a sample, and the frame rate of clips.
        pictures: (method, budget) to shape (n, height, width, 3) or (n, frames, height, width, 3);
            ("full run", N) among them.
        dtype: ``np.floating`` for pictures in [0, 1], or ``np.uint8``.

    Raises:
        OtcacheError: if the full run is missing, a stack has another shape, type or range, or clips
            come without a frame rate.
    """
    shape = stack_shape(results, pictures)
    for name, stack in pictures.items():
        check_stack(name, stack, shape, dtype)


def stack_shape(results: Results, pictures: Mapping[tuple[str, int], NDArray[Any]]) -> Shape:
    """The shape that every stack must have, as the full run's says.

    Raises:
        OtcacheError: if the full run is missing, or clips come without a frame rate.
    """
    key = (FULL, results.num_steps)
    if key not in pictures:
        raise OtcacheError(expected("pictures", sorted(pictures), f"a dictionary with {key}"))
    inner = pictures[key].shape[1:-1]
    if len(inner) == 3 and not results.frames_per_second:
        rate = results.frames_per_second
        advice = "clips cannot play without: set Results.frames_per_second."
        raise OtcacheError(expected("frames_per_second", rate, "above 0", advice))
    dims = inner if len(inner) == 3 else inner[:2]
    return (len(results.labels), *dims, 3)


def check_stack(
    name: tuple[str, int], stack: NDArray[Any], shape: Shape, dtype: type = np.floating
) -> None:
    """Whether a stack is of this shape, type and, where floating point, within [0, 1].

    Raises:
        OtcacheError: naming what is not.
    """
    if stack.shape != shape:
        raise OtcacheError(expected(f"pictures[{name}]", stack.shape, f"of shape {shape}"))
    if not np.issubdtype(stack.dtype, dtype):
        raise OtcacheError(expected(f"pictures[{name}]", stack.dtype, dtype.__name__))
    if dtype is np.floating and not 0 <= stack.min() <= stack.max() <= 1:
        got = f"{stack.dtype} from {stack.min()} to {stack.max()}"
        raise OtcacheError(expected(f"pictures[{name}]", got, "floating point within [0, 1]"))


def data_uri(picture: NDArray[np.uint8]) -> str:
    """Lossless WebP (a third smaller than PNG) as a data URI, or PNG where Pillow lacks WebP."""
    kind = "webp" if _writes_webp() else "png"
    raw = encode(picture, kind)
    return f"data:image/{kind};base64," + base64.b64encode(raw).decode("ascii")


def encode(picture: NDArray[np.uint8], kind: str) -> bytes:
    """Lossless file of a picture (height, width, 3)."""
    from matplotlib.image import imsave

    options: dict[str, Any] = {"pil_kwargs": {"lossless": True, "quality": 60, "method": 4}}
    if kind == "png":
        options = {"metadata": {"Software": "otcache"}}
    with io.BytesIO() as target:
        imsave(target, picture, format=kind, **options)
        return target.getvalue()


@lru_cache(maxsize=1)
def _writes_webp() -> bool:
    try:
        return bool(encode(np.zeros((1, 1, 3), np.uint8), "webp"))
    except (KeyError, ValueError, OSError):
        return False


def shrink(pictures: NDArray[Any], largest: int) -> Picture:
    """Average blocks of k by k pixels, k the least factor that fits; an edge may lose k-1 pixels.

    Args:
        pictures: shape (..., height, width, 3).
        largest: pixels that a side may have afterwards.
    """
    *lead, height, width, _ = pictures.shape
    k = max(1, -(-max(height, width) // largest))
    h, w = max(1, height // k), max(1, width // k)
    blocks = pictures[..., : h * k, : w * k, :].reshape(
        *lead, h, min(k, height), w, min(k, width), 3
    )
    averaged: Picture = blocks.mean(axis=(-4, -2))
    return averaged
