"""The kit of clip writers passes a writer that keeps the laws, and fails those that do not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otcache_core.contracts import ClipWriter, check_clip
from otcache_core.files import write_bytes
from otcache_core.testing import ClipWriterConformance


class Archive(ClipWriter):
    """Frames and rate as an npz file; ``flaw`` spoils what is stored."""

    suffixes = (".npz",)
    flaw = "none"

    def write(self, path: str | Path, clip: np.ndarray, frames_per_second: float) -> None:
        check_clip(self, path, clip, frames_per_second)
        frames, rate = np.asarray(clip, dtype=np.float64), frames_per_second
        match self.flaw:
            case "reversed":
                frames = frames[::-1]
            case "one short":
                frames = frames[:-1] if len(frames) > 1 else frames
            case "bgr":
                frames = frames[..., ::-1]
            case "wide":
                frames = frames.transpose(0, 2, 1, 3)
            case "slow":
                rate /= 2
            case "changes":
                clip[:] = 0
        buffer = io.BytesIO()
        np.savez(buffer, frames=frames, rate=rate)
        write_bytes(path, buffer.getvalue())


class TestArchive(ClipWriterConformance):
    tolerance = 1e-6

    def make_writer(self) -> ClipWriter:
        return Archive()

    def decode(self, path: Path) -> tuple[Any, Any]:
        data = np.load(path)
        frames = data["frames"]
        return frames, np.full(len(frames), 1 / data["rate"])


@pytest.mark.parametrize("flaw", ["reversed", "one short", "bgr", "wide", "slow", "changes"])
def test_a_flaw_is_found(flaw: str) -> None:
    class Flawed(Archive):
        pass

    Flawed.flaw = flaw

    class Kit(TestArchive):
        def make_writer(self) -> ClipWriter:
            return Flawed()

    with pytest.raises(AssertionError):  # noqa: PT012  # either law may find it
        Kit().test_frames_order_rate_and_colours_are_the_clips()
        Kit().test_the_clip_is_not_changed()
