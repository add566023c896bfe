"""Learned perceptual distance (LPIPS) on AlexNet and on VGG16."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from otcache_diffusers.metrics.backbones import AlexNet, Backbone, Vgg16
from otcache_diffusers.metrics.checks import Floats, PairedImages, local_path

ADVICE = "make it with tools/convert_lpips.py --network vgg --out FILE (30 MB, too large to ship)."


class LpipsDistance(PairedImages):
    """LPIPS on the features of a network, in batches of pairs.

    Args:
        network: computes the features.
        batch: images per forward pass, at least 1.
    """

    higher_is_better = False

    def __init__(self, network: Backbone, batch: int) -> None:
        self._network, self._batch = network, max(1, batch)
        self._smallest = network.smallest

    def _values(self, x: Floats, y: Floats) -> Floats:
        size = self._batch
        parts = ((x[i : i + size], y[i : i + size]) for i in range(0, len(x), size))
        with torch.inference_mode():
            distances = [_of_batch(self._network, *part) for part in parts]
        return torch.cat(distances).double().cpu().numpy()


class Lpips(LpipsDistance):
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

    def __init__(self, batch: int = 32, device: str = "cpu") -> None:
        super().__init__(AlexNet(torch.device(device)), batch)


class LpipsVgg(LpipsDistance):
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
    needs = "safetensors of VGG16 and its LPIPS heads"

    def __init__(
        self, path: str | Path | None = None, batch: int = 16, device: str = "cpu"
    ) -> None:
        file = local_path(path, "lpips-vgg: the weights", ADVICE)
        super().__init__(Vgg16(file, torch.device(device)), batch)


def _of_batch(network: Backbone, x: Floats, y: Floats) -> Tensor:
    layers = zip(network.features(x), network.features(y), strict=True)
    parts = [
        conv2d((_unit(fx) - _unit(fy)) ** 2, network.head(layer)).mean(dim=(1, 2, 3))
        for layer, (fx, fy) in enumerate(layers)
    ]
    return torch.stack(parts).sum(dim=0)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
