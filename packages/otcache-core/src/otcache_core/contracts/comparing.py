"""How a metric compares what was made with the full run: pictures or clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.metric import ClipMetric, QualityMetric
from otcache_core.errors import OtcacheError, expected

CLIPS = "clips, shape (n, frames, height, width, 3)"


def compare(
    metric: QualityMetric | ClipMetric, made: NDArray[np.floating], full: NDArray[np.floating]
) -> NDArray[np.float64]:
    r"""One number for each picture or clip.

    A :class:`ClipMetric` is asked for whole clips. A :class:`QualityMetric` is asked for pictures;
    of a clip of F frames it gives, with d its value of two pictures,

    .. math:: \tfrac{1}{F} \sum_f d(x_f, y_f), \quad\text{or}\quad
              d\bigl([x_1; \dots; x_F], [y_1; \dots; y_F]\bigr) \ \text{if pointwise},

    where [ ] lays frames below one another: the RMSE of a clip is the root of one mean over all its
    pixels, and its PSNR follows from it.

    Args:
        metric: of pairs of pictures, or of clips.
        made: pictures, shape (n, height, width, 3), or clips, shape (n, frames, height, width, 3),
            range [0, 1].
        full: the full run's, same shape and range.

    Returns:
        Shape (n,), float64.

    Raises:
        OtcacheError: if a metric of clips is given pictures, shapes differ, or the metric refuses
            what it is given.
    """
    if isinstance(metric, ClipMetric):
        return metric(*_clips(metric, made, full))
    if np.ndim(made) != 5 and np.ndim(full) != 5:
        return metric(made, full)
    if not metric.pointwise:
        return np.asarray(per_frame(metric, made, full).mean(axis=1))
    x, y = _clips(metric, made, full)
    n, _, _, width, channels = x.shape
    return metric(x.reshape(n, -1, width, channels), y.reshape(n, -1, width, channels))


def per_frame(
    metric: QualityMetric, clips: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    """One number for each frame of each clip.

    Args:
        metric: of pairs of pictures; it is asked for one clip at a time, which bounds its memory.
        clips: shape (n, frames, height, width, 3), range [0, 1].
        reference: the full run's clips, same shape and range.

    Returns:
        Shape (n, frames), float64.

    Raises:
        OtcacheError: if these are not clips, shapes differ, or the metric refuses a frame.
    """
    x, y = _clips(metric, clips, reference)
    return np.stack([metric(made, full) for made, full in zip(x, y, strict=True)])


def _clips(
    metric: QualityMetric | ClipMetric, made: NDArray[np.floating], full: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    x, y = np.asarray(made), np.asarray(full)
    for stack in (x, y):
        if stack.ndim != 5 or 0 in stack.shape:
            got = "pictures" if stack.ndim == 4 else stack.shape
            raise OtcacheError(expected(f"{metric.name}: what is compared", got, CLIPS))
    if x.shape != y.shape:
        wanted = f"that of the full run's, {y.shape}"
        raise OtcacheError(expected(f"{metric.name}: shape of the clips", x.shape, wanted))
    return x, y
