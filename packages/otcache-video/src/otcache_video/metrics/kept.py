"""What was found in a clip, kept for the next method that is compared with it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from otcache_video.metrics.clips import Clip

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
