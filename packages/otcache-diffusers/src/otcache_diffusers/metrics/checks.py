"""What metrics require of images and of local files."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import QualityMetric
from otcache_core.errors import OtcacheError, expected, shortened
from otcache_core.storage.files import bad_file
from otcache_diffusers.compat import load
from otcache_diffusers.recording.sampler import quiet_loading

Floats = NDArray[np.float64]

_RESCALE = "divide 8-bit images by 255, and map [-1, 1] to [0, 1] by (x + 1) / 2."
_LARGER = "make larger ones, or calibrate with Recipe(objective='rmse')."
_FINITE = "make them by a pipeline in float32 or bfloat16."


class PairedImages(QualityMetric):
    """A metric that takes checked pairs of images, in float64."""

    #: Least height and width that the metric can read.
    _smallest = 1

    def __call__(self, images: NDArray[np.floating], reference: NDArray[np.floating]) -> Floats:
        """Compare image by image: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, images are too small, or values are not floating point in
                [0, 1].
        """
        return self._values(*check_pairs(images, reference, self._smallest))

    @abstractmethod
    def _values(self, x: Floats, y: Floats) -> Floats:
        """Return one value per pair, shape (n,)."""


def check_pairs(
    images: NDArray[np.floating], reference: NDArray[np.floating], smallest: int = 1
) -> tuple[Floats, Floats]:
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


def check_images(images: NDArray[np.floating], name: str = "images", smallest: int = 1) -> Floats:
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
    """Return the path of weights that do not ship, once it is known to exist.

    Args:
        path: what the user gave; None for nothing.
        what: the metric and what it needs, as the message calls it.
        advice: where to get it.
        inside: files that must be in it, if it is a folder; either of ``a|b`` will do.

    Raises:
        OtcacheError: if no path is given, nothing is there, or a file is missing in it.
    """
    if path is None:
        raise OtcacheError(f"{what} must be given as a local path, got none: {advice}")
    local = Path(path).expanduser()
    if not os.path.lexists(local) or (inside and not os.path.isdir(local)):
        kind = "a folder" if inside else "a file"
        raise OtcacheError(f"{what} must be {kind}, got {str(local)!r}: {advice}")
    for names in inside:
        if not any(os.path.exists(local / name) for name in names.split("|")):
            wanted = " or ".join(names.split("|"))
            raise OtcacheError(f"{what}: {local} must hold {wanted}, got none: {advice}")
    return local


def load_pretrained(
    class_name: str, folder: Path, purpose: str, part: str = "", **options: Any
) -> Any:
    """Load an object of transformers from a local folder, quietly.

    Args:
        class_name: of a model or tokenizer.
        folder: as the user gave it: the error names it.
        purpose: what needs transformers: the first words of the error if it is missing.
        part: the folder inside, if it is not that folder itself.
        options: of ``from_pretrained``.

    Raises:
        OtcacheError: if transformers is missing.
        FileError: whatever a damaged file makes transformers raise.
    """
    try:
        with quiet_loading("transformers"):
            kind = load(f"transformers:{class_name}", purpose)
            return kind.from_pretrained(folder / part, local_files_only=True, **options)
    except OtcacheError:
        raise
    except Exception as error:
        reason = shortened(f"{type(error).__name__}: {error}")
        raise bad_file(folder, f"cannot be loaded: {reason}") from error
