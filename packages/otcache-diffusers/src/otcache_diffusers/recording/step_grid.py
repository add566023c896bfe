"""The grid of a sampler that reports none, from its recorded states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from otcache_core.storage.recordings import SLAB, slabs

Array = NDArray[np.float64]
#: An Euler step whose state and output are what they seem leaves about 1e-6 in float32.
MAX_RESIDUAL = 1e-3
_TINY = float(np.finfo(float).tiny)


def identified_grid(
    states: Sequence[NDArray[np.floating]], outputs: Sequence[NDArray[np.floating]]
) -> Array:
    r"""Return s_i from the states alone, by least squares over the batch.

    .. math:: x_{i+1} - x_i = h_i v_i, \qquad s_i = -\sum_{j \ge i} h_j, \qquad s_N = 0

    Where the steps do not have this form (more than 1e-3 of them is left over), as with denoisers that
    return x_0, epsilon or a score, it is the share of steps to go, 1 - i/N: any falling grid does there,
    since the recurrence of such a sampler is found without it.

    Args:
        states: x_0 .. x_N of each sample, shape (N + 1, d).
        outputs: v_0 .. v_{N-1} of each sample, shape (N, d).
    """
    along, size = np.zeros((2, len(outputs[0])))
    for dx, v in _steps(states, outputs):
        along += (dx * v).sum((1, 2))
        size += (v * v).sum((1, 2))
    h = along / np.maximum(size, _TINY)
    left = moved = 0.0
    for dx, v in _steps(states, outputs):
        left += float(np.square(dx - h[:, None, None] * v).sum())
        moved += float(np.square(dx).sum())
    residual = float(np.sqrt(left) / max(np.sqrt(moved), _TINY))
    if not residual <= MAX_RESIDUAL or not (np.all(h > 0) or np.all(h < 0)):
        return np.linspace(1.0, 0.0, len(h) + 1)
    return np.append(-np.cumsum(h[::-1])[::-1], 0.0)


def _steps(
    states: Sequence[NDArray[np.floating]], outputs: Sequence[NDArray[np.floating]]
) -> Iterator[tuple[Array, Array]]:
    """x_{i+1} - x_i and v_i in float64, a slab of elements at a time, shape (N, samples, size)."""
    for x, v in zip(_together(states), _together(outputs), strict=True):
        yield np.diff(x, axis=0), v


def _together(arrays: Sequence[NDArray[np.floating]]) -> Iterator[Array]:
    size = max(1, SLAB // len(arrays))
    for parts in zip(*(slabs(array, size) for array in arrays), strict=True):
        yield np.stack(parts, axis=1, dtype=np.float64)
