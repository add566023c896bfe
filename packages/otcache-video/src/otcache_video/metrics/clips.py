"""What every metric of clips asks of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected
from otcache_diffusers.metrics.pairs import check_pairs

Clip = NDArray[np.float64]


def clip_by_clip(
    value: Callable[[Clip, Clip], float],
    clips: NDArray[np.floating],
    reference: NDArray[np.floating],
    smallest: int = 1,
) -> NDArray[np.float64]:
    """One value a pair of clips, one pair at a time, which bounds memory.

    Args:
        value: of two clips of float64, shape (frames, height, width, 3).
        clips: shape (n, frames, height, width, 3), at least two frames, range [0, 1].
        reference: same shape and range.
        smallest: least height and width the metric can read.

    Returns:
        Shape (n,), float64.

    Raises:
        OtcacheError: if shapes differ, there is one frame alone, frames are too small, or values are
            not floating point, not finite or outside [0, 1].
    """
    made, full = np.asarray(clips), np.asarray(reference)
    _check_form(made, full)
    checked = (check_pairs(x, y, smallest) for x, y in zip(made, full, strict=True))
    return np.array([value(x, y) for x, y in checked], dtype=np.float64)


def _check_form(clips: NDArray[np.floating], reference: NDArray[np.floating]) -> None:
    for name, stack in (("clips", clips), ("reference", reference)):
        if stack.ndim != 5 or 0 in stack.shape:
            wanted = "(n, frames, height, width, 3) with n >= 1, channels last"
            raise OtcacheError(expected(f"{name}' shape", stack.shape, wanted))
        if stack.shape[1] < 2:
            advice = "a change over time needs two; compare single frames by an image metric."
            raise OtcacheError(expected(f"{name}' frames", stack.shape[1], "at least 2", advice))
    if clips.shape != reference.shape:
        raise OtcacheError(
            expected("clips' shape", clips.shape, f"the reference's {reference.shape}")
        )
