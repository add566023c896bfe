"""Root mean square error of arrays of any shape, one number a sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected


def state_rmse(
    states: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    r"""How far states are from a reference, sample by sample.

    .. math:: \sqrt{\frac1d \sum_e (x_e - y_e)^2}

    Args:
        states: shape (n, ...), d elements a sample.
        reference: the same shape.

    Returns:
        Shape (n,), float64, in units of the states.

    Raises:
        OtcacheError: if shapes differ or values are not finite.
    """
    x, y = np.asarray(states, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.shape != y.shape or x.ndim < 2:
        raise OtcacheError(expected("states", x.shape, f"shape {y.shape}, as the reference's"))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise OtcacheError("states must be finite, got NaN or infinity.")
    error = np.sqrt(np.mean((x - y) ** 2, axis=tuple(range(1, x.ndim))))
    return np.asarray(error, dtype=np.float64)
