"""Reading recorded runs a slab of elements at a time, from memory or from the disk."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Elements in a slab: with N = 50 steps a float64 copy takes 26 MB.
SLAB = 2**16


def slabs(array: NDArray[Any], size: int = SLAB) -> Iterator[NDArray[Any]]:
    """Columns of an array, ``size`` of them at a time, as views.

    Of a memory map no more than a slab stays resident: its pages are given back after each.

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
    """Give back the pages of a read-only memory map; they are read again when touched again.

    Nothing happens to arrays in memory, to maps that may be written, and where the system has no way.
    """
    if not (isinstance(array, np.memmap) and array.mode == "r" and hasattr(mmap, "MADV_DONTNEED")):
        return
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def mapped(array: NDArray[Any]) -> bool:
    """Whether an array is a memory map."""
    return isinstance(array, np.memmap)


def inner_products(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """<v_a, v_b>, means over elements, in float64 and symmetric; shape (N, N) for vectors of shape (N, d)."""
    total = np.zeros((len(vectors),) * 2)
    for slab in slabs(vectors):
        total += slab.astype(np.float64) @ slab.T
    return np.asarray((total + total.T) / (2 * vectors.shape[1]))
