"""What metrics of videos share: one value a pair, and a memory of what was found in references."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected
from otcache_diffusers.metrics.checks import check_pairs

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


Found = TypeVar("Found")
#: Bytes that all findings of one metric may take.
MOST_BYTES = 1 << 27
#: Bytes of a number and its key.
ONE_NUMBER = 64


class Kept(Generic[Found]):
    """A function of one clip that remembers the clips it saw last, by their content.

    A comparison measures many methods against the same full runs, whose flow or features would be
    computed anew each time. A finding that would not fit is not kept.

    Args:
        find: the function; what it returns must not be written to.
        size: bytes of a finding; one number by default.
        most_bytes: of all findings together.
    """

    def __init__(
        self,
        find: Callable[[Clip], Found],
        size: Callable[[Found], int] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._find, self._size, self._most_bytes = find, size, most_bytes
        self._held: OrderedDict[bytes, tuple[Found, int]] = OrderedDict()
        self._bytes = 0

    def __call__(self, clip: Clip) -> Found:
        """What the function finds in this clip."""
        key = _digest(clip)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        found = self._find(clip)
        size = ONE_NUMBER if self._size is None else self._size(found)
        if size <= self._most_bytes:
            self._held[key] = found, size
            self._bytes += size
        while self._bytes > self._most_bytes:
            _, (_, dropped) = self._held.popitem(last=False)
            self._bytes -= dropped
        return found


def _digest(clip: Clip) -> bytes:
    digest = hashlib.blake2b(repr((clip.shape, clip.dtype.str)).encode(), digest_size=32)
    digest.update(np.ascontiguousarray(clip).data)
    return digest.digest()
