r"""Recorded runs, in memory, on the disk or as a sketch, read a slab of elements at a time.

A sketch is a seeded choice of a few coordinates of every state and output. Of d coordinates a set S of d'
is drawn without replacement, the same one for all steps and samples. Means over S estimate means over all:
for u, w any combinations of outputs or states,

.. math:: \widehat{\langle u, w \rangle} = \frac{1}{d'} \sum_{c \in S} u_c w_c, \qquad
    E\,\big(\widehat{\langle u, w \rangle} - \langle u, w \rangle\big)^2
    \le \kappa\,\frac{d - d'}{d' (d - 1)}\; \|u\|^2 \|w\|^2

with all products means over elements, :math:`\|u\|^2 = \langle u, u \rangle`, and :math:`\kappa` the
larger of the kurtoses :math:`\langle u^2, u^2 \rangle / \|u\|^4` of u and w (3 for Gaussian elements). The
estimate has no bias, and the error is relative to the vectors *compared*: a displacement, a difference of
outputs that are nearly equal, is known as well as the outputs are.

Coordinates rather than a random projection: every relation that holds element by element
(x_{i+1} = x_i + h v_i) holds in the sketch exactly, so a sampler's recurrence is identified as from the
whole; means of absolute values (``local``, ``mean-velocity``) are estimated too; and nothing is multiplied.
A projection would not need the kurtosis in its error, but has none of the three.

The cost models, H, gains, local displacements and the recurrence may use a sketch. What runs the pipeline
(the evaluator, the closed-loop fit, ``Outcome``) records whole states of its own.
"""

from __future__ import annotations

import math
import mmap
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import FileError, OtcacheError, expected
from otcache_core.numbers import integer

#: 256 MiB: runs of 1024 x 1024 images stay in memory, those of a 720p video go to the disk.
MEMORY_BYTES = 2**28


@dataclass(frozen=True)
class RecordingStorage:
    r"""How recorded runs are kept.

    A run of N steps on latents of d elements takes 4 (2 N + 1) d bytes per sample, as float32: 3 GB for
    the 7.6 million elements of a 720p video of 129 frames and N = 50. What exceeds ``memory_bytes`` goes to
    temporary files, which are removed when they are not needed any more, and is read a slab at a time.

    Args:
        memory_bytes: recorded runs of one request that exceed this go to the disk; 0 sends all there.
        folder: where the temporary files go; by default the calibration's own folder, else the
            system's temporary folder, which on some systems is memory too.
        coordinates: keep a sketch: only so many coordinates of every state and output, drawn at
            random, the same ones for all steps and samples; None keeps all. The module documents the error,
            and what may use a sketch.
        seed: of the coordinates.

    Raises:
        OtcacheError: if ``memory_bytes`` is negative, ``coordinates`` below 1, or either no integer.

    Examples:
        >>> RecordingStorage(memory_bytes=1000).share(1, 4).memory_bytes
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
                object.__setattr__(self, name, integer(f"RecordingStorage.{name}", value, least))
        if not isinstance(self.folder, (str, Path, type(None))):
            raise OtcacheError(expected("RecordingStorage.folder", self.folder, "a path, or None"))

    def share(self, part: int, whole: int) -> RecordingStorage:
        """Return the storage of ``part`` of ``whole`` samples, with their share of the memory."""
        return replace(self, memory_bytes=self.memory_bytes * part // whole)


Floats = NDArray[np.float32]


class RecordedSteps(ABC):
    """Rows of float32, one per step, each of shape (samples, d)."""

    @abstractmethod
    def append(self, row: Floats) -> None:
        """Copy the next step's row; at most as many as were announced.

        Raises:
            FileError: if it cannot be written.
        """

    @abstractmethod
    def samples(self) -> list[Floats]:
        """Return one array a sample, of shape (rows so far, d), that outlives this object."""


class StepsInMemory(RecordedSteps):
    """Rows in memory, each sample's together.

    Args:
        num_rows: number of rows that will be appended.
        shape: of a row, (samples, d).
    """

    def __init__(self, num_rows: int, shape: tuple[int, int]) -> None:
        samples, d = shape
        self._arrays = [np.empty((num_rows, d), np.float32) for _ in range(samples)]
        self._count = 0

    def append(self, row: Floats) -> None:
        """Copy the next step's row."""
        for array, sample in zip(self._arrays, row, strict=True):
            array[self._count] = sample
        self._count += 1

    def samples(self) -> list[Floats]:
        """Return one array a sample."""
        return [array[: self._count] for array in self._arrays]


ADVICE = (
    "name another folder with RecordingStorage(folder=...), record fewer samples, or keep a sketch with "
    "RecordingStorage(coordinates=...)."
)


class StepsOnDisk(RecordedSteps):
    """Rows in a temporary file, written as they are and read through a memory map.

    The file is removed once neither this object nor any array of :meth:`samples` is left, also if the process
    crashes (but not on Windows).

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
        """Copy the next step's row."""
        try:
            self._file.write(np.ascontiguousarray(row, dtype=np.float32).data)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._count += 1

    def samples(self) -> list[Floats]:
        """Return one array a sample."""
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
    """Format a size in GB or MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def unwritable(folder: Path, error: OSError) -> FileError:
    """Make the error to raise if recorded runs cannot be written."""
    reason = error.strerror or str(error)
    return FileError(f"{folder}: recorded runs cannot be written here: {reason}: {ADVICE}")


#: Elements in a slab: with N = 50 steps a float64 copy takes 26 MB.
SLAB = 2**16


def slabs(array: NDArray[Any], size: int = SLAB) -> Iterator[NDArray[Any]]:
    """Yield columns of an array, ``size`` of them at a time, as views.

    Of a memory map at most one slab stays resident: its pages are released after each.

    Args:
        array: shape (rows, d).
        size: columns of a slab.

    Examples:
        >>> [slab.shape for slab in slabs(np.zeros((2, 5)), 3)]
        [(2, 3), (2, 2)]
    """
    for at in range(0, array.shape[1], size):
        yield array[:, at : at + size]
        release(array)


def release(array: NDArray[Any]) -> None:
    """Release the pages of a read-only memory map; they are read again on the next access.

    Does nothing for arrays in memory, writable maps, and systems without ``madvise``.
    """
    if not (isinstance(array, np.memmap) and array.mode == "r" and hasattr(mmap, "MADV_DONTNEED")):
        return
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def mapped(array: NDArray[Any]) -> bool:
    """Return whether an array is a memory map."""
    return isinstance(array, np.memmap)


def inner_products(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute <v_a, v_b>, means over elements, in float64 and symmetric; shape (N, N) from shape (N, d)."""
    total = np.zeros((len(vectors),) * 2)
    for slab in slabs(vectors):
        total += slab.astype(np.float64) @ slab.T
    return np.asarray((total + total.T) / (2 * vectors.shape[1]))


#: Of Gaussian elements, which states are near the start of a run.
GAUSSIAN_KURTOSIS = 3.0


def sketch(elements: int, coordinates: int, seed: int) -> NDArray[np.intp]:
    """Draw S, the indices of the coordinates kept, increasing; all of them if fewer exist.

    Args:
        elements: d.
        coordinates: d', at least 1.
        seed: of the draw.

    Examples:
        >>> sketch(5, 9, seed=0).tolist()
        [0, 1, 2, 3, 4]
    """
    if coordinates >= elements:
        return np.arange(elements)
    drawn = np.random.default_rng(seed).choice(elements, coordinates, replace=False, shuffle=False)
    return np.sort(drawn)


def sketch_error(elements: int, coordinates: int, kurtosis: float = GAUSSIAN_KURTOSIS) -> float:
    r"""Bound the relative standard error of an inner product.

    .. math:: \epsilon = \Big( \kappa\,\frac{d - d'}{d' (d - 1)} \Big)^{1/2}

    Args:
        elements: d, at least 1.
        coordinates: d', at least 1.
        kurtosis: kappa, at least 1.

    Raises:
        OtcacheError: if an argument is out of range.

    Examples:
        >>> round(sketch_error(7_603_200, 65_536), 4)
        0.0067
    """
    for name, value in (
        ("elements", elements),
        ("coordinates", coordinates),
        ("kurtosis", kurtosis),
    ):
        if not value >= 1:
            raise OtcacheError(expected(name, value, "at least 1"))
    if coordinates >= elements:
        return 0.0
    return math.sqrt(kurtosis * (elements - coordinates) / (coordinates * (elements - 1)))
