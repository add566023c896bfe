"""Recorded steps on the disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from otcache_core.errors import FileError
from otcache_core.steps import Floats, Steps

ADVICE = (
    "name another folder with Keep(folder=...), record fewer samples, or keep a sketch with "
    "Keep(coordinates=...)."
)


class StepsOnDisk(Steps):
    """Rows in a temporary file, written plainly and read through a memory map.

    The file is gone once neither this object nor any array of :meth:`samples` is left, however the
    process ends (on Windows: however it ends but by a crash).

    Args:
        shape: of a row, (samples, d).
        folder: where the file is made.

    Raises:
        FileError: if no file can be made there.
    """

    def __init__(self, shape: tuple[int, int], folder: Path) -> None:
        self._shape, self._folder, self._count = shape, folder, 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="otcache-", suffix=".f32")  # noqa: SIM115  # lives as long as this object
        except OSError as error:
            raise unwritable(folder, error) from error

    def append(self, row: Floats) -> None:
        try:
            self._file.write(np.ascontiguousarray(row, dtype=np.float32).data)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._count += 1

    def samples(self) -> list[Floats]:
        try:
            self._file.flush()
            whole = np.memmap(self._file, np.float32, "r", shape=(self._count, *self._shape))
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return [whole[:, n] for n in range(self._shape[0])]


def check_space(folder: Path, size: int) -> None:
    """Check that a folder can take ``size`` bytes.

    Raises:
        FileError: if it does not exist or has less left.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise unwritable(folder, error) from error
    if free < size:
        raise FileError(
            f"{folder}: recorded runs take {gigabytes(size)}, {gigabytes(free)} are free: {ADVICE}"
        )


def gigabytes(size: int) -> str:
    """A size for people to read, in GB or MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def unwritable(folder: Path, error: OSError) -> FileError:
    """The error to raise where recorded runs cannot be written."""
    reason = error.strerror or str(error)
    return FileError(f"{folder}: recorded runs cannot be written here: {reason}: {ADVICE}")
