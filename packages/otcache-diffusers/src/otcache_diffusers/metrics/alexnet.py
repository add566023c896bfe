"""AlexNet's five convolutions, as LPIPS ships them."""

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

from otcache_diffusers.metrics.perceptual import Backbone, network_input

STRIDE_PADDING = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
POOLED_BEFORE = (1, 2)


class AlexNet(Backbone):
    """Five rectified convolutions of 64, 192, 384, 256 and 256 channels, in float32.

    The weights ship in float16 and are read on first use.

    References:
        Krizhevsky: One weird trick for parallelizing convolutional neural networks, 2014,
        https://arxiv.org/abs/1404.5997.

    Args:
        device: where to run.
    """

    smallest = 31

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def features(self, pictures: NDArray[np.floating]) -> Iterator[Tensor]:
        """One tensor a layer, (n, channels, height, width), of pictures in [0, 1]."""
        x = network_input(pictures, self._device)
        for layer, (stride, padding) in enumerate(STRIDE_PADDING):
            if layer in POOLED_BEFORE:
                x = max_pool2d(x, kernel_size=3, stride=2)
            weight, bias = (self._weights[f"conv{layer}.{k}"] for k in ("weight", "bias"))
            x = relu(conv2d(x, weight, bias, stride=stride, padding=padding))
            yield x

    def head(self, layer: int) -> Tensor:
        """Weights of a layer's channels."""
        return self._weights[f"head{layer}.weight"]

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        packed = files("otcache_diffusers.metrics").joinpath("weights/lpips_alex.safetensors")
        return {
            name: tensor.to(self._device, torch.float32)
            for name, tensor in load(packed.read_bytes()).items()
        }
