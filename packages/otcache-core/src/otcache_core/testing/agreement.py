"""Compare what a plugin gives with what it must give, and say in one sentence how far they are apart."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_equal(found: Any, wanted: Any, what: str) -> None:
    """Assert that two arrays are equal bit by bit; NaN equals NaN.

    Args:
        found: what the plugin gives.
        wanted: what it must give, of the same shape.
        what: what is wrong where they differ, and what to do.

    Raises:
        AssertionError: with ``what`` and the largest difference.
    """
    x, y = _arrays(found, wanted, what)
    if x.dtype.kind not in "fc" or y.dtype.kind not in "fc":
        assert np.array_equal(x, y), f"{what} ({_apart(x, y)})"
        return
    assert np.array_equal(x, y, equal_nan=True), f"{what} ({_apart(x, y)})"


def assert_near(
    found: Any, wanted: Any, what: str, *, rtol: float = 1e-7, atol: float = 0.0
) -> None:
    """Assert that :math:`|x - y| \\le a + r |y|` everywhere.

    Args:
        found: x, what the plugin gives.
        wanted: y, what it must give, of the same shape.
        what: what is wrong where they differ, and what to do.
        rtol: r.
        atol: a.

    Raises:
        AssertionError: with ``what`` and the largest difference.
    """
    x, y = _arrays(found, wanted, what)
    near = np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
    assert near, f"{what} ({_apart(x, y)})"


def _arrays(found: Any, wanted: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(found), np.asarray(wanted)
    if y.ndim == 0 and x.ndim:  # one number for all
        y = np.broadcast_to(y, x.shape)
    assert x.shape == y.shape, f"{what} (shapes are {x.shape} and {y.shape})"
    return x, y


def _apart(x: np.ndarray, y: np.ndarray) -> str:
    """Return the largest difference in words."""
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        return f"{int(np.sum(x != y))} of {x.size} values differ"
    with np.errstate(invalid="ignore"):
        apart = np.abs(x.astype(np.float64) - y.astype(np.float64))
    if not np.isfinite(apart).all():
        return "some values are not finite"
    return f"the largest difference is {apart.max(initial=0.0):.3g}"
