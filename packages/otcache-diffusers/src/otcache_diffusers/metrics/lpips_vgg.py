"""Learned perceptual distance on VGG16 features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.local_files import local_path
from otcache_diffusers.metrics.pairs import check_pairs
from otcache_diffusers.metrics.perceptual import distances
from otcache_diffusers.metrics.vgg16 import Vgg16

ADVICE = "make it with tools/convert_lpips.py --network vgg --out FILE (30 MB, too large to ship)."


class LpipsVgg(QualityMetric):
    r"""LPIPS version 0.1 with VGG16 and its linear heads: as
    :class:`~otcache_diffusers.metrics.lpips.Lpips`, over the last rectified convolution of VGG16's
    five blocks. Its values are not comparable with those on AlexNet. Pictures are never resized and
    need at least 16 by 16 pixels.

    References:
        Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a
        perceptual metric, 2018, https://arxiv.org/abs/1801.03924.

    Args:
        path: the weights, which do not ship: ``tools/convert_lpips.py --network vgg`` makes them.
        batch: pictures per forward pass, at least 1.
        device: where to run, as torch names it.

    Raises:
        OtcacheError: if there is no such file.
    """

    name = "lpips-vgg"
    higher_is_better = False
    needs = "safetensors of VGG16 and its LPIPS heads"

    def __init__(
        self, path: str | Path | None = None, batch: int = 16, device: str = "cpu"
    ) -> None:
        self._batch = max(1, batch)
        file = local_path(path, "lpips-vgg: the weights", ADVICE)
        self._network = Vgg16(file, torch.device(device))

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, pictures are smaller than 16 by 16, or values are not
                floating point in [0, 1].
            FileError: if the file holds something else.
        """
        x, y = check_pairs(images, reference, smallest=Vgg16.smallest)
        return distances(self._network, x, y, self._batch)
