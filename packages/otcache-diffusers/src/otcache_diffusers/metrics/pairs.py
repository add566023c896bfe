"""What every image metric asks of its pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected

_RESCALE = "divide 8-bit pictures by 255, and map [-1, 1] to [0, 1] by (x + 1) / 2."
_LARGER = "make larger ones, or calibrate with Recipe(objective='rmse')."
_FINITE = "make them by a pipeline in float32 or bfloat16."


def check_pairs(
    images: NDArray[np.floating], reference: NDArray[np.floating], smallest: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both stacks as float64 once they are known to be pictures in [0, 1].

    Integers are refused, not converted: differences of uint8 wrap around and flatter a PSNR.

    Args:
        images: shape (n, height, width, 3), range [0, 1].
        reference: same shape and range.
        smallest: least height and width the metric can read.

    Raises:
        OtcacheError: if shapes differ or are too small, or values are not floating point,
            not finite or outside [0, 1].
    """
    a, b = (
        check_pictures(v, k, smallest) for v, k in ((images, "images"), (reference, "reference"))
    )
    if a.shape != b.shape:
        raise OtcacheError(expected("images' shape", a.shape, f"the reference's {b.shape}"))
    return a, b


def check_pictures(
    pictures: NDArray[np.floating], name: str = "images", smallest: int = 1
) -> NDArray[np.float64]:
    """Return one stack as float64 once it is known to hold pictures in [0, 1].

    Args:
        pictures: shape (n, height, width, 3), range [0, 1].
        name: what messages call them.
        smallest: least height and width the metric can read.

    Raises:
        OtcacheError: as :func:`check_pairs`, but for the shapes of two.
    """
    stack = np.asarray(pictures)
    _check_form(name, stack, smallest)
    if not np.isfinite(stack).all():
        raise OtcacheError(expected(f"{name}' values", "NaN or infinity", "finite", _FINITE))
    low, high = float(stack.min()), float(stack.max())
    if low < 0.0 or high > 1.0:
        got = f"{low:.4g} to {high:.4g}"
        raise OtcacheError(expected(f"{name}' values", got, "within [0, 1]", _RESCALE))
    return stack.astype(np.float64)


def mean_squares(
    images: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Mean square difference of each pair over pixels and channels, float64, shape (n,).

    Raises:
        OtcacheError: as :func:`check_pairs`.
    """
    x, y = check_pairs(images, reference)
    return np.asarray(np.mean((x - y) ** 2, axis=(1, 2, 3)))


def _check_form(name: str, stack: NDArray[np.generic], smallest: int) -> None:
    if not np.issubdtype(stack.dtype, np.floating):
        raise OtcacheError(expected(f"{name}' dtype", str(stack.dtype), "floating point", _RESCALE))
    if stack.ndim != 4 or stack.shape[-1] != 3 or 0 in stack.shape:
        wanted = "(n, height, width, 3) with n >= 1, channels last"
        raise OtcacheError(expected(f"{name}' shape", stack.shape, wanted))
    if min(stack.shape[1:3]) < smallest:
        wanted = f"at least {smallest} by {smallest}"
        raise OtcacheError(expected(f"{name}' height and width", stack.shape[1:3], wanted, _LARGER))
