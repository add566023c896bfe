"""The noise levels of a sampler that tells none, from its recorded states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError
from otcache_core.slabs import SLAB, slabs

Array = NDArray[np.float64]
#: An Euler step whose state and output are what they seem leaves about 1e-6 in float32.
MAX_RESIDUAL = 1e-3
_TINY = float(np.finfo(float).tiny)


def identified_grid(
    states: Sequence[NDArray[np.floating]], outputs: Sequence[NDArray[np.floating]]
) -> Array:
    r"""s_i from the states alone, by least squares over the batch.

    .. math:: x_{i+1} - x_i = h_i v_i, \qquad s_i = -\sum_{j \ge i} h_j, \qquad s_N = 0

    Args:
        states: x_0 .. x_N of each sample, shape (N + 1, d).
        outputs: v_0 .. v_{N-1} of each sample, shape (N, d).

    Raises:
        ExecutionError: if the steps do not have this form: more than 1e-3 of them is left over.
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
    if not residual <= MAX_RESIDUAL:
        raise ExecutionError(
            f"steps must be x + h v to {MAX_RESIDUAL:g}, got a relative residual of {residual:.2g}: "
            "the denoiser's first tensor argument is not the sampler's state, or it is no "
            "one-step sampler; give otcache.loop(...) its grid=, or use a diffusers pipeline."
        )
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
