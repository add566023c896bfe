"""Images and videos of a report: checked, made small, and kept in its folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.report.results import FULL, Results
from otcache_core import FileError, OtcacheError
from otcache_core.errors import expected
from otcache_core.storage.array_files import load_arrays, save_arrays

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


Bytes = NDArray[np.uint8]
FORMAT = {"format": "otcache-pictures", "version": "1"}


@dataclass(frozen=True)
class Album:
    """Pictures, or clips, in 8 bits a channel, no side longer than
    :data:`~otcache.report.images.LARGEST`.

    A page made from an album that was kept is the page made from the pictures, byte for byte, since
    both see these.

    Args:
        stacks: (method, budget) to shape (n, height, width, 3), or all to (n, frames, height, width,
            3); ("full run", N) among them.
        num_steps: N.
    """

    stacks: Mapping[tuple[str, int], Bytes]
    num_steps: int

    @classmethod
    def of(cls, results: Results, pictures: Pictures) -> Album:
        """Pictures or clips in [0, 1], shrunk and rounded.

        Each stack is asked for once and let go, but for the full run's: they may be read from files.

        Raises:
            OtcacheError: if the full run is missing, a stack has another shape, type or range, or clips
                come without a frame rate.
        """
        shape, stacks = stack_shape(results, pictures), {}
        for name, stack in pictures.items():
            check_stack(name, stack, shape)
            stacks[name] = _eight_bit(stack)
        return cls(stacks, results.num_steps)

    @property
    def full(self) -> Bytes:
        """The full run's."""
        return self.stacks[FULL, self.num_steps]

    @property
    def frames(self) -> int:
        """Of each clip; 0 where the album is of pictures."""
        return self.full.shape[1] if self.full.ndim == 5 else 0

    def save(self, path: Path) -> None:
        """Write them as safetensors, atomically.

        Raises:
            FileError: if the file cannot be written.
        """
        arrays = {f"{budget}:{method}": stack for (method, budget), stack in self.stacks.items()}
        save_arrays(path, arrays, FORMAT)

    @classmethod
    def load(cls, path: Path, results: Results) -> Album:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: if the file is no such file, or does not fit the results.
        """
        arrays, facts = load_arrays(path)
        if facts != FORMAT:
            raise FileError(f"{path}: must be pictures of a report (otcache-pictures 1).")
        stacks = {}
        for name, stack in arrays.items():
            budget, _, method = name.partition(":")
            if not budget.isdecimal() or stack.dtype != np.uint8:
                raise FileError(f"{path}: field {name!r} is no stack of 8-bit pictures.")
            stacks[method, int(budget)] = stack
        try:
            check_pictures(results, stacks, np.uint8)
        except OtcacheError as error:
            raise FileError(f"{path}: {error}") from error
        return cls(stacks, results.num_steps)


def _eight_bit(stack: NDArray[np.floating]) -> Bytes:
    small = np.stack([shrink(picture, LARGEST) for picture in stack])
    return np.rint(small.astype(np.float64) * 255).astype(np.uint8)
