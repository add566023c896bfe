"""How large the latents of a picture or clip are."""

from __future__ import annotations

from dataclasses import dataclass

from otcache_core.errors import OtcacheError, expected
from otcache_core.models import Canvas


@dataclass(frozen=True)
class Latent:
    """Latents of one picture or clip.

    Attributes:
        channels: numbers a latent pixel.
        height, width: in latent pixels.
        frames: in latent frames.
    """

    channels: int
    height: int
    width: int
    frames: int = 1


@dataclass(frozen=True)
class Compression:
    """What the encoder makes of a canvas.

    Args:
        channels: numbers a latent pixel.
        space: pixels on the side of a latent pixel.
        time: frames a latent frame, after the first; 0 where there are pictures only.
    """

    channels: int
    space: int
    time: int = 0

    def __call__(self, canvas: Canvas, cell: int) -> Latent:
        """The latents of a canvas that holds a whole number of tokens of ``cell`` latent pixels.

        Raises:
            OtcacheError: if it does not.
        """
        for name in ("height", "width"):
            side, pixels = self.space * cell, getattr(canvas, name)
            if pixels % side:
                raise OtcacheError(expected(name, pixels, f"a multiple of {side}"))
        return Latent(
            self.channels,
            canvas.height // self.space,
            canvas.width // self.space,
            self._frames(canvas.frames),
        )

    def _frames(self, frames: int) -> int:
        if self.time and (frames - 1) % self.time:
            raise OtcacheError(expected("frames", frames, f"1 above a multiple of {self.time}"))
        if not self.time and frames != 1:
            raise OtcacheError(expected("frames", frames, "1", "this model makes pictures."))
        return 1 + (frames - 1) // self.time if self.time else 1
