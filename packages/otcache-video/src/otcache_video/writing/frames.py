"""A clip in the bytes that encoders take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: The shorter side that a player or a page shows well, and the longer side that is never passed.
SHOWN, LARGEST = 240, 1920


def eight_bit(clip: NDArray[np.floating]) -> NDArray[np.uint8]:
    r"""Bytes of a clip, every pixel enlarged to k by k.

    .. math:: k = \max(1, \min(\lfloor 240 / \min(h, w) \rfloor, \lfloor 1920 / \max(h, w) \rfloor))

    so clips of 240 pixels and more keep their size. Enlarging keeps pixels sharp in players that smooth,
    and their colours apart where the codec stores colour at half the resolution.

    Args:
        clip: shape (frames, h, w, 3) in [0, 1].

    Returns:
        Shape (frames, k h, k w, 3).
    """
    h, w = clip.shape[1:3]
    k = max(1, min(SHOWN // min(h, w), LARGEST // max(h, w)))
    small = np.rint(np.asarray(clip, dtype=np.float64) * 255).astype(np.uint8)
    return small.repeat(k, axis=1).repeat(k, axis=2)


def even(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames of even height and width: the last row or column once more where it is needed."""
    h, w = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
