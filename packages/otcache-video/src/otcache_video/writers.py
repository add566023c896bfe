"""Write videos as MP4 and as animated WebP."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import VideoWriter, check_video
from otcache_core.errors import OtcacheError
from otcache_core.storage.files import write_bytes
from otcache_diffusers.compat import load

ENCODER = "libx264"
#: Constant quality: errors of a few levels of 255, hardly seen, at a few kB a second of small videos.
CRF = "16"
#: Marks of ITU-R BT.709, with which players turn YUV into RGB.
BT709, LIMITED_RANGE = 1, 1
#: The shorter side that a player or a page shows well, and the longer side that is never passed.
SHOWN, LARGEST = 240, 1920


@final
class Mp4(VideoWriter):
    """H.264 in MP4, 4:2:0, BT.709, constant frame rate, the index in front.

    Small videos are enlarged by a whole factor (:func:`~otcache_video.writers.eight_bit`), odd
    sizes get their last row or column twice: the format stores colours of two by two pixels together.
    """

    suffixes = (".mp4",)

    def write(
        self, path: str | Path, video: NDArray[np.floating], frames_per_second: float
    ) -> None:
        check_video(self, path, video, frames_per_second)
        rate = Fraction(frames_per_second).limit_denominator(1001)
        write_bytes(path, encode(even(eight_bit(video)), rate))


def encode(frames: NDArray[np.uint8], rate: Fraction) -> bytes:
    """Return the content of an MP4 file.

    Args:
        frames: shape (n, height, width, 3), height and width even.
        rate: frames per second.

    Raises:
        OtcacheError: if PyAV or its H.264 encoder is not there, or it refuses the video.
    """
    av = _library()
    with TemporaryDirectory() as folder:
        # The index moves to the front in a second pass, which needs a file.
        path = Path(folder) / "video.mp4"
        try:
            with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
                _mux(av, container, frames, rate)
        except av.FFmpegError as error:
            raise OtcacheError(
                f"a video of shape {frames.shape} cannot be encoded: {error}"
            ) from error
        return path.read_bytes()


@final
class WebP(VideoWriter):
    """An animated image that loops for ever: lossless, times in whole milliseconds.

    Browsers show it like any other image, without a player. Small videos are enlarged by a whole
    factor (:func:`~otcache_video.writers.eight_bit`), which costs next to nothing without loss.
    """

    suffixes = (".webp",)

    def write(
        self, path: str | Path, video: NDArray[np.floating], frames_per_second: float
    ) -> None:
        check_video(self, path, video, frames_per_second)
        images, features = (load(f"PIL.{name}", "writing .webp") for name in ("Image", "features"))
        if not features.check("webp"):
            raise OtcacheError(
                "writing .webp needs a Pillow with WebP, which this one lacks: install one of its "
                "wheels, pip install --only-binary=pillow pillow"
            )
        first, *others = (images.fromarray(frame) for frame in eight_bit(video))
        file = io.BytesIO()
        times = durations(len(video), frames_per_second)
        first.save(
            file, "WEBP", save_all=True, append_images=others, duration=times, loop=0, lossless=True
        )
        write_bytes(path, file.getvalue())


def durations(frames: int, frames_per_second: float) -> list[int]:
    """Return whole milliseconds of each frame, rounded so that no error adds up; each at least 1."""
    ends = np.rint(1000 * np.arange(frames + 1) / frames_per_second)
    return [max(1, int(d)) for d in np.diff(ends)]


def eight_bit(video: NDArray[np.floating]) -> NDArray[np.uint8]:
    r"""Return a video as bytes, every pixel enlarged to k by k.

    .. math:: k = \max(1, \min(\lfloor 240 / \min(h, w) \rfloor, \lfloor 1920 / \max(h, w) \rfloor))

    so videos of 240 pixels and more keep their size. Enlarging keeps pixels sharp in players that smooth,
    and their colours apart if the codec stores colour at half the resolution.

    Args:
        video: shape (frames, h, w, 3) in [0, 1].

    Returns:
        Shape (frames, k h, k w, 3).
    """
    h, w = video.shape[1:3]
    k = max(1, min(SHOWN // min(h, w), LARGEST // max(h, w)))
    small = np.rint(np.asarray(video, dtype=np.float64) * 255).astype(np.uint8)
    return small.repeat(k, axis=1).repeat(k, axis=2)


def even(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frames of even height and width; the last row or column is repeated if needed."""
    h, w = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")


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
