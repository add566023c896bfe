"""Clips as film strips: all frames of a clip in one picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Pixels that a side of a WebP file may have.
LONGEST = 16383


def rows_of(frames: int, height: int) -> int:
    """Frames below one another in a strip: all of them, unless the picture would be too high."""
    columns = math.ceil(frames / max(1, LONGEST // height))
    return math.ceil(frames / columns)


def strip(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames below one another, column by column; black where the last column has too few.

    Args:
        clip: shape (frames, height, width, 3).

    Returns:
        Shape (rows * height, columns * width, 3), with rows as :func:`rows_of` says.
    """
    frames, height, width, _ = clip.shape
    rows = rows_of(frames, height)
    columns = math.ceil(frames / rows)
    padded = np.zeros((columns * rows, height, width, 3), np.uint8)
    padded[:frames] = clip
    return np.concatenate(list(padded.reshape(columns, rows * height, width, 3)), axis=1)


def frame_errors(clip: NDArray[np.uint8], reference: NDArray[np.uint8]) -> list[float]:
    r"""How far each frame is from the reference's.

    .. math:: \frac{1}{255} \sqrt{\operatorname{mean} (x_f - y_f)^2}

    Args:
        clip: shape (frames, height, width, 3).
        reference: the same shape.

    Returns:
        One number a frame, four digits of it.
    """
    difference = clip.astype(np.float64) - reference
    errors = np.sqrt(np.mean(difference**2, axis=(1, 2, 3))) / 255
    return [float(f"{error:.4g}") for error in errors]


def stills(stack: NDArray[Any]) -> NDArray[Any]:
    """The middle frame of each clip; pictures as they are."""
    return stack if stack.ndim == 4 else stack[:, stack.shape[1] // 2]
