"""Contract of a clip writer: a file that a player or a browser shows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected


class ClipWriter(ABC):
    """Write one clip to one file.

    Laws: played, the file shows frame t of the clip from t / rate to (t + 1) / rate seconds; frames
    that equal the one before may be held instead of stored again. Each pixel is shown as a square of
    k by k pixels for a whole k, with repeated edge pixels at the right and the bottom where a codec
    wants more; colours are those of the clip within the error of the codec. A file appears whole or
    not at all, and an error leaves what stood there. The clip is not changed.

    Attributes:
        suffixes: lower-case endings of file names it writes, with the dot: ``(".mp4",)``.
    """

    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def write(self, path: str | Path, clip: NDArray[np.floating], frames_per_second: float) -> None:
        """Write the clip; a file that stands there is replaced.

        Args:
            path: ends on one of :attr:`suffixes`, in whatever case; its folder exists.
            clip: shape (frames, height, width, 3), range [0, 1], channels red, green, blue.
            frames_per_second: above 0, constant over the clip; what the format cannot hold is rounded.

        Raises:
            FileError: if the file cannot be written.
            OtcacheError: if shape, type, range, rate or suffix is another (:func:`check_clip`), or
                what encodes it is not installed.
        """


def check_clip(
    writer: ClipWriter, path: str | Path, clip: NDArray[np.floating], frames_per_second: float
) -> None:
    """Refuse what no writer takes.

    Raises:
        OtcacheError: if the clip is not of shape (frames, height, width, 3) with at least one of each,
            not floating point or not in [0, 1], the frame rate is not above 0, or the suffix is not
            among the writer's.
    """
    if Path(path).suffix.lower() not in writer.suffixes:
        wanted = f"a name that ends on {' or '.join(writer.suffixes)}"
        raise OtcacheError(expected("path of a clip", str(path), wanted))
    if clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
        wanted = "of shape (frames, height, width, 3), nothing of it empty"
        raise OtcacheError(expected("a clip", f"shape {clip.shape}", wanted))
    if not np.issubdtype(clip.dtype, np.floating):
        raise OtcacheError(expected("a clip", str(clip.dtype), "floating point in [0, 1]"))
    low, high = float(clip.min()), float(clip.max())
    if not (low >= 0 and high <= 1):
        raise OtcacheError(expected("values of a clip", (low, high), "in [0, 1]"))
    if not (math.isfinite(frames_per_second) and frames_per_second > 0):
        raise OtcacheError(expected("frames_per_second", frames_per_second, "a number above 0"))
