"""What a batch of samples was at each step, appended step by step and read sample by sample."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Steps(ABC):
    """Rows of float32, one a step, each of shape (samples, d)."""

    @abstractmethod
    def append(self, row: Floats) -> None:
        """Take a copy of the next step's row; at most as many as were said.

        Raises:
            FileError: if it cannot be written.
        """

    @abstractmethod
    def samples(self) -> list[Floats]:
        """One array a sample, of shape (rows so far, d), that outlives this object."""


class StepsInMemory(Steps):
    """Rows in memory, each sample's together.

    Args:
        num_rows: rows to come.
        shape: of a row, (samples, d).
    """

    def __init__(self, num_rows: int, shape: tuple[int, int]) -> None:
        samples, d = shape
        self._arrays = [np.empty((num_rows, d), np.float32) for _ in range(samples)]
        self._count = 0

    def append(self, row: Floats) -> None:
        for array, sample in zip(self._arrays, row, strict=True):
            array[self._count] = sample
        self._count += 1

    def samples(self) -> list[Floats]:
        return [array[: self._count] for array in self._arrays]
