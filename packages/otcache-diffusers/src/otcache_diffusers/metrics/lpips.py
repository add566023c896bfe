"""Learned perceptual distance on AlexNet features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from otcache_core.contracts.metric import QualityMetric
from otcache_diffusers.metrics.pairs import check_pairs

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
STRIDE_PADDING = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
POOLED_BEFORE = (1, 2)
SMALLEST = 31


class Lpips(QualityMetric):
    r"""LPIPS version 0.1 with AlexNet and its linear heads: over five layers l,

    .. math:: d(x, y) = \sum_l \tfrac{1}{H_l W_l} \sum_{h,w}
              \sum_c w_{lc} \left(\hat x^l_{hwc} - \hat y^l_{hwc}\right)^2,

    where the features after each rectified convolution are divided by their norm over channels
    (plus 1e-10). Pictures are mapped from [0, 1] to [-1, 1], then shifted and scaled as the network
    was trained. Runs in float32 in batches; the weights ship in float16 (against float32 ones the
    distance moves by less than 0.3 % of itself) and are read on the first call.

    Pictures are never resized: 64 by 64 pixels, the patch size the heads were trained on, leave a
    3 by 3 deepest grid, and at least 31 by 31 are needed. A distance depends on the resolution
    it is measured at.

    References:
        Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a
        perceptual metric, 2018, https://arxiv.org/abs/1801.03924.

    Args:
        batch: pictures per forward pass, at least 1.
        device: where to run, as torch names it.
    """

    name = "lpips"
    higher_is_better = False

    def __init__(self, batch: int = 32, device: str = "cpu") -> None:
        self._batch = max(1, batch)
        self._device = torch.device(device)

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, pictures are smaller than 31 by 31, or values are
                not floating point in [0, 1].
        """
        x, y = check_pairs(images, reference, smallest=SMALLEST)
        starts = range(0, len(x), self._batch)
        with torch.inference_mode():
            parts = [self._distance(x[i : i + self._batch], y[i : i + self._batch]) for i in starts]
        return np.concatenate(parts)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        packed = files("otcache_diffusers.metrics").joinpath("weights/lpips_alex.safetensors")
        return {
            name: tensor.to(self._device, torch.float32)
            for name, tensor in load(packed.read_bytes()).items()
        }

    def _distance(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        total = torch.zeros(len(x), device=self._device)
        layers = zip(self._features(x), self._features(y), strict=True)
        for layer, (fx, fy) in enumerate(layers):
            difference = (_unit(fx) - _unit(fy)) ** 2
            total += conv2d(difference, self._weights[f"head{layer}.weight"]).mean(dim=(1, 2, 3))
        return total.double().cpu().numpy()

    def _features(self, pictures: NDArray[np.float64]) -> Iterator[Tensor]:
        x = torch.from_numpy(pictures).to(self._device, torch.float32).permute(0, 3, 1, 2)
        shift, scale = (x.new_tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        x = (2.0 * x - 1.0 - shift) / scale
        for layer, (stride, padding) in enumerate(STRIDE_PADDING):
            if layer in POOLED_BEFORE:
                x = max_pool2d(x, kernel_size=3, stride=2)
            weight, bias = (self._weights[f"conv{layer}.{k}"] for k in ("weight", "bias"))
            x = relu(conv2d(x, weight, bias, stride=stride, padding=padding))
            yield x


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
