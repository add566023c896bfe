"""How far runs ended from the full run, and the inner products of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.storage.recordings import SLAB
from otcache_diffusers.recording.shelf import Shelf, Shelved


class Deviations:
    """e_a = x_N(schedule a) - x_N(full) of several schedules, batch after batch of samples.

    Args:
        num_schedules: S.
        shelf: where they are put away; None keeps them in memory.
    """

    def __init__(self, num_schedules: int, shelf: Shelf | None = None) -> None:
        self._parts: list[list[torch.Tensor | Shelved]] = [[] for _ in range(num_schedules)]
        self._shelf = shelf

    def add(self, index: int, error: torch.Tensor) -> None:
        """Those of one schedule on the next batch, shape (samples, d), on the host."""
        self._parts[index].append(self._shelf.put(error) if self._shelf else error)

    def grams(self) -> NDArray[np.float64]:
        """<e_a, e_b> of each sample, mean over elements; shape (samples, S, S).

        In float64, a slab of elements at a time.
        """
        batches = zip(*self._parts, strict=True)
        return np.concatenate([_gram(batch) for batch in batches])


def _gram(errors: Sequence[torch.Tensor | Shelved]) -> NDArray[np.float64]:
    samples, elements = errors[0].shape
    total = torch.zeros(samples, len(errors), len(errors), dtype=torch.float64)
    for slab in _slabs(errors, elements, max(1, SLAB // samples)):
        total += slab @ slab.mT
    return np.asarray(total / elements)


def _slabs(
    errors: Sequence[torch.Tensor | Shelved], elements: int, size: int
) -> Iterator[torch.Tensor]:
    """Shape (samples, S, size)."""
    for at in range(0, elements, size):
        columns = slice(at, min(at + size, elements))
        parts = [e.columns(columns) if isinstance(e, Shelved) else e[:, columns] for e in errors]
        yield torch.stack([part.double() for part in parts], dim=1)
