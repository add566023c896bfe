"""What metrics require of images and of local files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected, shortened
from otcache_core.storage.files import bad_file

_RESCALE = "divide 8-bit images by 255, and map [-1, 1] to [0, 1] by (x + 1) / 2."
_LARGER = "make larger ones, or calibrate with Recipe(objective='rmse')."
_FINITE = "make them by a pipeline in float32 or bfloat16."


def check_pairs(
    images: NDArray[np.floating], reference: NDArray[np.floating], smallest: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both stacks as float64 once they are known to be images in [0, 1].

    Integers are refused, not converted: differences of uint8 wrap around and raise a PSNR.

    Args:
        images: shape (n, height, width, 3), range [0, 1].
        reference: same shape and range.
        smallest: least height and width the metric can read.

    Raises:
        OtcacheError: if shapes differ or are too small, or values are not floating point,
            not finite or outside [0, 1].
    """
    a, b = (check_images(v, k, smallest) for v, k in ((images, "images"), (reference, "reference")))
    if a.shape != b.shape:
        raise OtcacheError(expected("images' shape", a.shape, f"the reference's {b.shape}"))
    return a, b


def check_images(
    images: NDArray[np.floating], name: str = "images", smallest: int = 1
) -> NDArray[np.float64]:
    """Return one stack as float64 once it is known to hold images in [0, 1].

    Args:
        images: shape (n, height, width, 3), range [0, 1].
        name: what messages call them.
        smallest: least height and width the metric can read.

    Raises:
        OtcacheError: as :func:`check_pairs`, but for the shapes of two.
    """
    stack = np.asarray(images)
    _check_form(name, stack, smallest)
    if not np.isfinite(stack).all():
        raise OtcacheError(expected(f"{name}' values", "NaN or infinity", "finite", _FINITE))
    low, high = float(stack.min()), float(stack.max())
    if low < 0.0 or high > 1.0:
        got = f"{low:.4g} to {high:.4g}"
        raise OtcacheError(expected(f"{name}' values", got, "within [0, 1]", _RESCALE))
    return stack.astype(np.float64)


def _check_form(name: str, stack: NDArray[np.generic], smallest: int) -> None:
    if not np.issubdtype(stack.dtype, np.floating):
        raise OtcacheError(expected(f"{name}' dtype", str(stack.dtype), "floating point", _RESCALE))
    if stack.ndim != 4 or stack.shape[-1] != 3 or 0 in stack.shape:
        wanted = "(n, height, width, 3) with n >= 1, channels last"
        raise OtcacheError(expected(f"{name}' shape", stack.shape, wanted))
    if min(stack.shape[1:3]) < smallest:
        wanted = f"at least {smallest} by {smallest}"
        raise OtcacheError(expected(f"{name}' height and width", stack.shape[1:3], wanted, _LARGER))


def local_path(path: str | Path | None, what: str, advice: str, inside: Sequence[str] = ()) -> Path:
    """Return the path of weights that do not ship, once it is known to be there.

    Args:
        path: what the user gave; None for nothing.
        what: the metric and what it needs, as the message calls it.
        advice: where to get it.
        inside: files that must lie in it, if it is a folder; any one of ``a|b`` will do.

    Raises:
        OtcacheError: if there is no path, nothing lies there, or a file is missing in it.
    """
    if path is None:
        raise OtcacheError(f"{what} must be given as a local path, got none: {advice}")
    found = Path(path).expanduser()
    if not os.path.lexists(found) or (inside and not os.path.isdir(found)):
        kind = "a folder" if inside else "a file"
        raise OtcacheError(f"{what} must be {kind}, got {str(found)!r}: {advice}")
    for names in inside:
        if not any(os.path.exists(found / name) for name in names.split("|")):
            wanted = " or ".join(names.split("|"))
            raise OtcacheError(f"{what}: {found} must hold {wanted}, got none: {advice}")
    return found


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Name the folder in the error if a library cannot load what lies in it.

    Raises:
        FileError: whatever a damaged file makes the library raise.
    """
    try:
        yield
    except OtcacheError:
        raise
    except Exception as error:
        reason = shortened(f"{type(error).__name__}: {error}")
        raise bad_file(folder, f"cannot be loaded: {reason}") from error
