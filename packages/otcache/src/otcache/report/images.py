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

Bytes = NDArray[np.uint8]
Images = Mapping[tuple[str, int], NDArray[np.floating]]
Shape = tuple[int, ...]
#: Pixels of the longer side of an image in a report.
LARGEST = 256
FORMAT = {"format": "otcache-images", "version": "2"}


@dataclass(frozen=True)
class Album:
    """Images, or videos, in 8 bits a channel, no side longer than :data:`LARGEST`.

    A page made from an album that was kept is the page made from the images, byte for byte, since both
    show these.

    Args:
        stacks: (method, budget) to shape (n, height, width, 3), or all to (n, frames, height, width,
            3); ("full run", N) among them.
        num_steps: N.
    """

    stacks: Mapping[tuple[str, int], Bytes]
    num_steps: int

    @classmethod
    def of(cls, results: Results, images: Images) -> Album:
        """Shrink and round images or videos in [0, 1].

        Each stack is looked up once and not kept, but for the full run's: they may be read from files.

        Raises:
            OtcacheError: if the full run is missing, a stack has another shape, type or range, or videos
                come without a frame rate.
        """
        shape, stacks = stack_shape(results, images), {}
        for name, stack in images.items():
            check_stack(name, stack, shape)
            small = np.stack([shrink(image, LARGEST) for image in stack])
            stacks[name] = np.rint(small.astype(np.float64) * 255).astype(np.uint8)
        return cls(stacks, results.num_steps)

    @property
    def full(self) -> Bytes:
        """Stack of the full run."""
        return self.stacks[FULL, self.num_steps]

    @property
    def frames(self) -> int:
        """Frames of each video; 0 if the album is of images."""
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
            raise FileError(f"{path}: must be images of a report (otcache-images 2).")
        stacks = {}
        for field, stack in arrays.items():
            budget, _, method = field.partition(":")
            if not budget.isdecimal() or stack.dtype != np.uint8:
                raise FileError(f"{path}: field {field!r} is not a stack of 8-bit images.")
            stacks[method, int(budget)] = stack
        try:
            shape = stack_shape(results, stacks)
            for name, stack in stacks.items():
                check_stack(name, stack, shape, np.uint8)
        except OtcacheError as error:
            raise FileError(f"{path}: {error}") from error
        return cls(stacks, results.num_steps)


def stack_shape(results: Results, images: Mapping[tuple[str, int], NDArray[Any]]) -> Shape:
    """Return the shape that every stack must have, as the full run's says.

    Raises:
        OtcacheError: if the full run is missing, or videos come without a frame rate.
    """
    key = (FULL, results.num_steps)
    if key not in images:
        raise OtcacheError(expected("images", sorted(images), f"a dictionary with {key}"))
    inner = images[key].shape[1:-1]
    if len(inner) == 3 and not results.frames_per_second:
        rate = results.frames_per_second
        advice = "videos cannot play without: set Results.frames_per_second."
        raise OtcacheError(expected("frames_per_second", rate, "above 0", advice))
    dims = inner if len(inner) == 3 else inner[:2]
    return (len(results.labels), *dims, 3)


def check_stack(
    name: tuple[str, int], stack: NDArray[Any], shape: Shape, dtype: type = np.floating
) -> None:
    """Check that a stack is of this shape and type, and if floating point within [0, 1].

    Raises:
        OtcacheError: naming what is not.
    """
    if stack.shape != shape:
        raise OtcacheError(expected(f"images[{name}]", stack.shape, f"of shape {shape}"))
    if not np.issubdtype(stack.dtype, dtype):
        raise OtcacheError(expected(f"images[{name}]", stack.dtype, dtype.__name__))
    if dtype is np.floating and not 0 <= stack.min() <= stack.max() <= 1:
        got = f"{stack.dtype} from {stack.min()} to {stack.max()}"
        raise OtcacheError(expected(f"images[{name}]", got, "floating point within [0, 1]"))


def data_uri(image: NDArray[np.uint8]) -> str:
    """Encode lossless WebP (a tenth smaller than PNG) as a data URI, or PNG if Pillow lacks WebP."""
    kind = "webp" if _writes_webp() else "png"
    raw = encode(image, kind)
    return f"data:image/{kind};base64," + base64.b64encode(raw).decode("ascii")


def encode(image: NDArray[np.uint8], kind: str) -> bytes:
    """Encode an image (height, width, 3) as a lossless file."""
    from matplotlib.image import imsave

    options: dict[str, Any] = {"pil_kwargs": {"lossless": True, "quality": 20, "method": 1}}
    if kind == "png":
        options = {"metadata": {"Software": "otcache"}}
    with io.BytesIO() as target:
        imsave(target, image, format=kind, **options)
        return target.getvalue()


@lru_cache(maxsize=1)
def _writes_webp() -> bool:
    try:
        return bool(encode(np.zeros((1, 1, 3), np.uint8), "webp"))
    except (KeyError, ValueError, OSError):
        return False


def shrink(images: NDArray[Any], largest: int) -> NDArray[np.floating]:
    """Average blocks of k by k pixels, k the least factor that fits; an edge may lose k-1 pixels.

    Args:
        images: shape (..., height, width, 3).
        largest: pixels that a side may have afterwards.
    """
    *lead, height, width, _ = images.shape
    k = max(1, -(-max(height, width) // largest))
    h, w = max(1, height // k), max(1, width // k)
    blocks = images[..., : h * k, : w * k, :].reshape(*lead, h, min(k, height), w, min(k, width), 3)
    averaged: NDArray[np.floating] = blocks.mean(axis=(-4, -2))
    return averaged
