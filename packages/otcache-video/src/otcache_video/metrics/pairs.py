"""What metrics of videos share: one value per pair, and a memory of what was found in references."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import VideoMetric
from otcache_core.errors import OtcacheError, expected
from otcache_diffusers.metrics.checks import check_pairs

Video = NDArray[np.float64]
Found = TypeVar("Found")
#: Bytes that all findings of one metric may take.
MOST_BYTES = 1 << 27
#: Bytes of a number and its key.
ONE_NUMBER = 64


class PairedVideos(VideoMetric):
    """A metric that takes one pair of videos at a time, which bounds memory; lower is better."""

    higher_is_better = False
    #: Least height and width that the metric can read.
    _smallest = 1

    def __call__(
        self, videos: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare video by video: shape (n, frames, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, frames are too small, or values are
                not floating point, not finite or outside [0, 1].
        """
        videos, reference = np.asarray(videos), np.asarray(reference)
        _check_form(videos, reference)
        pairs = zip(videos, reference, strict=True)
        checked = (check_pairs(x, y, self._smallest) for x, y in pairs)
        return np.array([self._value(x, y) for x, y in checked], dtype=np.float64)

    @abstractmethod
    def _value(self, x: Video, y: Video) -> float:
        """Compare two videos of float64, shape (frames, height, width, 3)."""


class Memory(Generic[Found]):
    """A function of one video that remembers its findings in the last videos, by their content.

    A comparison measures many methods against the same full runs, whose flow or features would be
    computed anew each time. A finding that would not fit is not kept.

    Args:
        find: the function: a number, arrays or tensors, which must not be written to.
        most_bytes: of all findings together.
    """

    def __init__(self, find: Callable[[Video], Found], most_bytes: int = MOST_BYTES) -> None:
        self._find, self._most_bytes = find, most_bytes
        self._held: OrderedDict[bytes, tuple[Found, int]] = OrderedDict()
        self._bytes = 0

    def __call__(self, video: Video) -> Found:
        """Return what the function finds in this video."""
        key = _digest(video)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        found = self._find(video)
        parts = found if isinstance(found, tuple) else (found,)
        size = sum(getattr(part, "nbytes", ONE_NUMBER) for part in parts)
        if size <= self._most_bytes:
            self._held[key] = found, size
            self._bytes += size
        while self._bytes > self._most_bytes:
            _, (_, dropped) = self._held.popitem(last=False)
            self._bytes -= dropped
        return found


def _check_form(videos: NDArray[np.floating], reference: NDArray[np.floating]) -> None:
    for name, stack in (("videos", videos), ("reference", reference)):
        if stack.ndim != 5 or 0 in stack.shape:
            wanted = "(n, frames, height, width, 3) with n >= 1, channels last"
            raise OtcacheError(expected(f"{name}' shape", stack.shape, wanted))
        if stack.shape[1] < 2:
            advice = "a change over time needs two; compare single frames by an image metric."
            raise OtcacheError(expected(f"{name}' frames", stack.shape[1], "at least 2", advice))
    if videos.shape != reference.shape:
        wanted = f"the reference's {reference.shape}"
        raise OtcacheError(expected("videos' shape", videos.shape, wanted))


def _digest(video: Video) -> bytes:
    digest = hashlib.blake2b(repr((video.shape, video.dtype.str)).encode(), digest_size=32)
    digest.update(np.ascontiguousarray(video).data)
    return digest.digest()
