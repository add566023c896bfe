"""Clips as MP4 files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import ClipWriter, check_clip
from otcache_core.errors import OtcacheError
from otcache_core.files import write_bytes
from otcache_video.writing.frames import eight_bit, even

ENCODER = "libx264"
#: Constant quality: errors of a few levels of 255, hardly seen, at a few kB a second of small clips.
CRF = "16"
#: Marks of ITU-R BT.709, with which players turn YUV into RGB.
BT709, LIMITED_RANGE = 1, 1


@final
class Mp4(ClipWriter):
    """H.264 in MP4, 4:2:0, BT.709, constant frame rate, the index in front.

    Small clips are enlarged by a whole factor (:func:`~otcache_video.writing.frames.eight_bit`), odd
    sizes get their last row or column twice: the format stores colours of two by two pixels together.
    """

    suffixes = (".mp4",)

    def write(self, path: str | Path, clip: NDArray[np.floating], frames_per_second: float) -> None:
        check_clip(self, path, clip, frames_per_second)
        rate = Fraction(frames_per_second).limit_denominator(1001)
        write_bytes(path, encode(even(eight_bit(clip)), rate))


def encode(frames: NDArray[np.uint8], rate: Fraction) -> bytes:
    """The file's content.

    Args:
        frames: shape (n, height, width, 3), height and width even.
        rate: frames per second.

    Raises:
        OtcacheError: if PyAV or its H.264 encoder is not there, or it refuses the clip.
    """
    av = _library()
    with (
        TemporaryDirectory() as folder
    ):  # the index moves to the front in a second pass over a file
        path = Path(folder) / "clip.mp4"
        try:
            with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
                _mux(av, container, frames, rate)
        except av.FFmpegError as error:
            raise OtcacheError(
                f"a clip of shape {frames.shape} cannot be encoded: {error}"
            ) from error
        return path.read_bytes()


def _mux(av: Any, container: Any, frames: NDArray[np.uint8], rate: Fraction) -> None:
    stream = container.add_stream(ENCODER, rate=rate, options={"crf": CRF})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    coding = stream.codec_context
    coding.colorspace = coding.color_primaries = coding.color_trc = BT709
    coding.color_range = LIMITED_RANGE
    for pixels in frames:
        container.mux(stream.encode(_yuv(av, pixels)))
    container.mux(stream.encode())


def _yuv(av: Any, pixels: NDArray[np.uint8]) -> Any:
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=av.video.reformatter.Colorspace.ITU709,
        dst_color_range=av.video.reformatter.ColorRange.MPEG,
    )


def _library() -> Any:
    try:
        import av
    except ImportError as error:
        raise OtcacheError(
            f"writing .mp4 needs PyAV, which cannot be imported ({error}): "
            "pip install --force-reinstall 'av>=15.1'"
        ) from error
    if ENCODER not in av.codec.codecs_available:
        raise OtcacheError(
            f"writing .mp4 needs the encoder {ENCODER}, which this build of PyAV {av.__version__} "
            "lacks: install one of its wheels, pip install --only-binary=av av"
        )
    return av
