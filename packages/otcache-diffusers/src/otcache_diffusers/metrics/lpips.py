"""Learned perceptual distance (LPIPS) on AlexNet and on VGG16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.backbones import AlexNet, Backbone, Vgg16
from otcache_diffusers.metrics.checks import check_pairs, local_path

ADVICE = "make it with tools/convert_lpips.py --network vgg --out FILE (30 MB, too large to ship)."


class Lpips(QualityMetric):
    r"""LPIPS version 0.1 with AlexNet and its linear heads.

    Over five layers l,

    .. math:: d(x, y) = \sum_l \tfrac{1}{H_l W_l} \sum_{h,w}
              \sum_c w_{lc} \left(\hat x^l_{hwc} - \hat y^l_{hwc}\right)^2,

    where the features after each rectified convolution are divided by their norm over channels
    (plus 1e-10). Images are mapped from [0, 1] to [-1, 1], then shifted and scaled as the network
    was trained. Runs in float32 in batches; the weights ship in float16 (against float32 ones the
    distance moves by less than 0.3 % of itself) and are read on the first call.

    Images are never resized: 64 by 64 pixels, the patch size the heads were trained on, leave a
    3 by 3 deepest grid, and at least 31 by 31 are needed. A distance depends on the resolution
    it is measured at.

    References:
        Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a
        perceptual metric, 2018, https://arxiv.org/abs/1801.03924.

    Args:
        batch: images per forward pass, at least 1.
        device: where to run, as torch names it.
    """

    name = "lpips"
    higher_is_better = False

    def __init__(self, batch: int = 32, device: str = "cpu") -> None:
        self._batch = max(1, batch)
        self._network = AlexNet(torch.device(device))

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare image by image: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, images are smaller than 31 by 31, or values are
                not floating point in [0, 1].
        """
        return _distances(self._network, images, reference, self._batch)


class LpipsVgg(QualityMetric):
    """LPIPS version 0.1 with VGG16 and its linear heads.

    As :class:`Lpips`, over the last rectified convolution of VGG16's five blocks. Its values are not
    comparable with those on AlexNet. Images are never resized and need at least 16 by 16 pixels.

    References:
        Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a
        perceptual metric, 2018, https://arxiv.org/abs/1801.03924.

    Args:
        path: the weights, which do not ship: ``tools/convert_lpips.py --network vgg`` makes them.
        batch: images per forward pass, at least 1.
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
        """Compare image by image: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, images are smaller than 16 by 16, or values are not
                floating point in [0, 1].
            FileError: if the file holds something else.
        """
        return _distances(self._network, images, reference, self._batch)


def _distances(
    network: Backbone, images: NDArray[np.floating], reference: NDArray[np.floating], batch: int
) -> NDArray[np.float64]:
    """Compute the distance of each pair, shape (n,), in batches of ``batch`` pairs."""
    x, y = check_pairs(images, reference, network.smallest)
    starts = range(0, len(x), batch)
    with torch.inference_mode():
        parts = [_of_batch(network, x[i : i + batch], y[i : i + batch]) for i in starts]
    return torch.cat(parts).double().cpu().numpy()


def _of_batch(network: Backbone, x: NDArray[np.float64], y: NDArray[np.float64]) -> Tensor:
    layers = zip(network.features(x), network.features(y), strict=True)
    parts = [
        conv2d((_unit(fx) - _unit(fy)) ** 2, network.head(layer)).mean(dim=(1, 2, 3))
        for layer, (fx, fy) in enumerate(layers)
    ]
    return torch.stack(parts).sum(dim=0)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
