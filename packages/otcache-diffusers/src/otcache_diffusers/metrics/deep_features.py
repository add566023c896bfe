"""Deep features of pictures, and their moments part by part."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_diffusers.metrics.alexnet import AlexNet

NETWORK = "AlexNet of LPIPS 0.1, fifth rectified convolution, every position a sample"
CHANNELS = 256
Features = NDArray[np.float64]


def deep_features(pictures: NDArray[np.floating]) -> Features:
    """One row of 256 channels for every position of every picture.

    Args:
        pictures: shape (n, height, width, 3), range [0, 1], at least 31 by 31; 64 by 64 ones have
            3 by 3 positions.
    """
    with torch.inference_mode():
        *_, last = _network().features(np.asarray(pictures, dtype=np.float64))
        return np.asarray(last.permute(0, 2, 3, 1).flatten(0, 2).double().numpy())


class RunningMoments:
    """Mean and covariance of rows that come in parts, summed about the first part's mean.

    Args:
        width: columns of a row.
    """

    def __init__(self, width: int) -> None:
        self._count, self._origin = 0, np.zeros(width)
        self._sum, self._products = np.zeros(width), np.zeros((width, width))

    def add(self, rows: Features) -> None:
        """Take in rows of shape (n, width)."""
        if not self._count:
            self._origin = rows.mean(axis=0)
        shifted = rows - self._origin
        self._count += len(rows)
        self._sum += shifted.sum(axis=0)
        self._products += shifted.T @ shifted

    def moments(self) -> tuple[Features, Features]:
        """Mean and covariance (divided by the count less one) of all rows, at least two."""
        mean = self._sum / self._count
        scatter = self._products - self._count * np.outer(mean, mean)
        return self._origin + mean, scatter / (self._count - 1)


@cache
def _network() -> AlexNet:
    return AlexNet(torch.device("cpu"))
