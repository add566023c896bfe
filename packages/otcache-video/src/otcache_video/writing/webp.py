"""Clips as animated WebP pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import ClipWriter, check_clip
from otcache_core.errors import OtcacheError
from otcache_core.files import write_bytes
from otcache_diffusers.compat import load
from otcache_video.writing.frames import eight_bit


@final
class WebP(ClipWriter):
    """An animated picture that loops for ever: lossless, times in whole milliseconds.

    Browsers show it like any other picture, without a player. Small clips are enlarged by a whole
    factor (:func:`~otcache_video.writing.frames.eight_bit`), which costs next to nothing without loss.
    """

    suffixes = (".webp",)

    def write(self, path: str | Path, clip: NDArray[np.floating], frames_per_second: float) -> None:
        check_clip(self, path, clip, frames_per_second)
        images, features = (load(f"PIL.{name}", "writing .webp") for name in ("Image", "features"))
        if not features.check("webp"):
            raise OtcacheError(
                "writing .webp needs a Pillow with WebP, which this one lacks: install one of its "
                "wheels, pip install --only-binary=pillow pillow"
            )
        first, *others = (images.fromarray(frame) for frame in eight_bit(clip))
        file = io.BytesIO()
        times = durations(len(clip), frames_per_second)
        first.save(
            file, "WEBP", save_all=True, append_images=others, duration=times, loop=0, lossless=True
        )
        write_bytes(path, file.getvalue())


def durations(frames: int, frames_per_second: float) -> list[int]:
    """Whole milliseconds of each frame, so rounded that no error adds up; each at least 1."""
    ends = np.rint(1000 * np.arange(frames + 1) / frames_per_second)
    return [max(1, int(d)) for d in np.diff(ends)]
