"""The video writer."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import VideoWriter, check_video
from otcache_core.storage.files import write_bytes


@final
class Apng(VideoWriter):
    """Writes an animated PNG, which browsers play, in 8 bits a channel and without further loss.

    References:
        Portable Network Graphics (PNG) Specification (Third Edition), 2025,
        https://www.w3.org/TR/png-3/.
    """

    suffixes = (".apng",)

    def write(
        self, path: str | Path, video: NDArray[np.floating], frames_per_second: float
    ) -> None:
        """Write every frame whole."""
        check_video(self, path, video, frames_per_second)
        frames, height, width, _ = video.shape
        delay = Fraction(1 / frames_per_second).limit_denominator(65535)
        shown = min(delay.numerator, 65535), delay.denominator
        chunks = [
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"acTL", struct.pack(">II", frames, 0)),
        ]
        for t, frame in enumerate(video):
            control = struct.pack(
                ">IIIIIHHBB", max(2 * t - 1, 0), width, height, 0, 0, *shown, 0, 0
            )
            order = struct.pack(">I", 2 * t) if t else b""  # of fdAT; the first frame is the image
            chunks += [
                _chunk(b"fcTL", control),
                _chunk(b"fdAT" if t else b"IDAT", order + _rows(frame)),
            ]
        write_bytes(Path(path), b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b""))


def _rows(frame: NDArray[np.floating]) -> bytes:
    """Rows of red, green, blue, each behind the number of its filter, 0."""
    pixels = np.rint(255 * np.asarray(frame, dtype=np.float64)).astype(np.uint8)
    rows = pixels.reshape(len(frame), -1)
    return zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
