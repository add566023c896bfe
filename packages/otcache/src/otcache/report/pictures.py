"""Pictures for a report: checked, shrunk and encoded."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from otcache.results import Results
from otcache_core import OtcacheError
from otcache_core.errors import expected

Picture = NDArray[np.floating]
Pictures = Mapping[tuple[str, int], Picture]
FULL = "full"


def full_pictures(results: Results, pictures: Pictures) -> Picture:
    """The full run's pictures, once every stack of ``pictures`` is known to fit the results.

    Args:
        results: one label a sample.
        pictures: (method, budget) to shape (n, height, width, 3) in [0, 1]; ("full", N) among them.

    Raises:
        OtcacheError: if the full run is missing, or a stack has another shape, type or range.
    """
    key = (FULL, results.num_steps)
    if key not in pictures:
        raise OtcacheError(expected("pictures", sorted(pictures), f"a dictionary with {key}"))
    shape = (len(results.labels), *pictures[key].shape[1:3], 3)
    for name, stack in pictures.items():
        if stack.shape != shape:
            raise OtcacheError(expected(f"pictures[{name}]", stack.shape, f"of shape {shape}"))
        if not np.issubdtype(stack.dtype, np.floating) or not (
            0 <= stack.min() <= stack.max() <= 1
        ):
            got = f"{stack.dtype} from {stack.min()} to {stack.max()}"
            raise OtcacheError(expected(f"pictures[{name}]", got, "floating point within [0, 1]"))
    return pictures[key]


def data_uri(picture: Picture, largest: int = 256) -> str:
    """PNG as a data URI, shrunk by whole factors until neither side exceeds ``largest``."""
    raw = png(shrink(picture, largest))
    return "data:image/png;base64," + base64.b64encode(raw).decode("ascii")


def png(picture: Picture) -> bytes:
    """Lossless PNG of a picture (height, width, 3) in [0, 1]."""
    from matplotlib.image import imsave

    eight_bit = np.rint(np.asarray(picture, dtype=np.float64) * 255).astype(np.uint8)
    with io.BytesIO() as target:
        imsave(target, eight_bit, format="png", metadata={"Software": "otcache"})
        return target.getvalue()


def shrink(picture: Picture, largest: int) -> Picture:
    """Average blocks of k by k pixels, k the least factor that fits; an edge may lose k-1 pixels."""
    height, width, _ = picture.shape
    k = max(1, -(-max(height, width) // largest))
    h, w = max(1, height // k), max(1, width // k)
    blocks = picture[: h * k, : w * k].reshape(h, min(k, height), w, min(k, width), 3)
    averaged: Picture = blocks.mean(axis=(1, 3))
    return averaged
