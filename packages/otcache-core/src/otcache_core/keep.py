"""Where recorded states and outputs are kept: in memory, on the disk, or as a sketch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from otcache_core.errors import OtcacheError, expected
from otcache_core.numbers import integer

#: 256 MiB: 1024 x 1024 pictures stay in memory, a 720p clip goes to the disk whatever its steps.
MEMORY_BYTES = 2**28


@dataclass(frozen=True)
class Keep:
    r"""How recorded runs are kept.

    A run of N steps on latents of d elements takes 4 (2 N + 1) d bytes a sample, as float32: 3 GB for
    the 7.6 million elements of a 720p clip of 129 frames and N = 50. What exceeds ``memory_bytes`` goes
    to temporary files, which vanish when nobody needs them, and is read a slab at a time.

    Args:
        memory_bytes: recorded runs of one request that exceed this go to the disk; 0 sends all there.
        folder: where the temporary files go; by default the calibration's own folder, else the
            system's temporary folder, which on some systems is memory too.
        coordinates: keep a sketch: only so many coordinates of every state and output, drawn at
            random, the same ones for all steps and samples; None keeps all. See
            :mod:`otcache_core.sketch` for the error, and for what may use it.
        seed: of the coordinates.

    Raises:
        OtcacheError: if ``memory_bytes`` is negative, ``coordinates`` below 1, or either no integer.

    Examples:
        >>> Keep(memory_bytes=1000).share(1, 4).memory_bytes
        250
    """

    memory_bytes: int = MEMORY_BYTES
    folder: str | Path | None = None
    coordinates: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("memory_bytes", 0), ("coordinates", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None or name != "coordinates":
                object.__setattr__(self, name, integer(f"Keep.{name}", value, least))
        if not isinstance(self.folder, (str, Path, type(None))):
            raise OtcacheError(expected("Keep.folder", self.folder, "a path, or None"))

    def share(self, part: int, whole: int) -> Keep:
        """What ``part`` of ``whole`` samples may take of the memory."""
        return replace(self, memory_bytes=self.memory_bytes * part // whole)
