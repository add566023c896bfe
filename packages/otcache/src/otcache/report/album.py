"""The pictures or clips of a report, as they are kept beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache.report.pictures import (
    LARGEST,
    Pictures,
    check_pictures,
    check_stack,
    shrink,
    stack_shape,
)
from otcache.results import FULL, Results
from otcache_core import FileError, OtcacheError
from otcache_core.array_files import load_arrays, save_arrays

Bytes = NDArray[np.uint8]
FORMAT = {"format": "otcache-pictures", "version": "1"}


@dataclass(frozen=True)
class Album:
    """Pictures, or clips, in 8 bits a channel, no side longer than
    :data:`~otcache.report.pictures.LARGEST`.

    A page made from an album that was kept is the page made from the pictures, byte for byte, since
    both see these.

    Args:
        stacks: (method, budget) to shape (n, height, width, 3), or all to (n, frames, height, width,
            3); ("full run", N) among them.
        num_steps: N.
    """

    stacks: Mapping[tuple[str, int], Bytes]
    num_steps: int

    @classmethod
    def of(cls, results: Results, pictures: Pictures) -> Album:
        """Pictures or clips in [0, 1], shrunk and rounded.

        Each stack is asked for once and let go, but for the full run's: they may be read from files.

        Raises:
            OtcacheError: if the full run is missing, a stack has another shape, type or range, or clips
                come without a frame rate.
        """
        shape, stacks = stack_shape(results, pictures), {}
        for name, stack in pictures.items():
            check_stack(name, stack, shape)
            stacks[name] = _eight_bit(stack)
        return cls(stacks, results.num_steps)

    @property
    def full(self) -> Bytes:
        """The full run's."""
        return self.stacks[FULL, self.num_steps]

    @property
    def frames(self) -> int:
        """Of each clip; 0 where the album is of pictures."""
        return self.full.shape[1] if self.full.ndim == 5 else 0

    def save(self, path: Path) -> None:
        """Write them as safetensors, atomically.

        Raises:
            FileError: if the file cannot be written.
        """
        arrays = {f"{budget}:{method}": stack for (method, budget), stack in self.stacks.items()}
        save_arrays(path, arrays, FORMAT)

    @classmethod
    def load(cls, path: Path, results: Results) -> Album:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: if the file is no such file, or does not fit the results.
        """
        arrays, facts = load_arrays(path)
        if facts != FORMAT:
            raise FileError(f"{path}: must be pictures of a report (otcache-pictures 1).")
        stacks = {}
        for name, stack in arrays.items():
            budget, _, method = name.partition(":")
            if not budget.isdecimal() or stack.dtype != np.uint8:
                raise FileError(f"{path}: field {name!r} is no stack of 8-bit pictures.")
            stacks[method, int(budget)] = stack
        try:
            check_pictures(results, stacks, np.uint8)
        except OtcacheError as error:
            raise FileError(f"{path}: {error}") from error
        return cls(stacks, results.num_steps)


def _eight_bit(stack: NDArray[np.floating]) -> Bytes:
    small = np.stack([shrink(picture, LARGEST) for picture in stack])
    return np.rint(small.astype(np.float64) * 255).astype(np.uint8)
