"""VGG16's thirteen convolutions, from a local file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from otcache_core.errors import FileError, expected
from otcache_core.storage.array_files import Arrays, array, load_arrays
from otcache_core.storage.files import bad_file
from otcache_diffusers.metrics.perceptual import Backbone, network_input

#: Convolutions of each block; the features of a block are those after its last one.
BLOCKS = (2, 2, 3, 3, 3)
KEYS = frozenset(
    {f"conv{i}.{k}" for i in range(sum(BLOCKS)) for k in ("weight", "bias")}
    | {f"head{i}.weight" for i in range(len(BLOCKS))}
)


class Vgg16(Backbone):
    """Five blocks of rectified 3 by 3 convolutions, halved between blocks, in float32.

    References:
        Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition,
        2014, https://arxiv.org/abs/1409.1556.

    Args:
        path: safetensors with ``conv0`` to ``conv12`` (weight, bias) and ``head0`` to ``head4``
            (weight), as ``tools/convert_lpips.py --network vgg`` writes them; read on first use.
        device: where to run.
    """

    smallest = 16

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path, self._device = path, device

    def features(self, pictures: NDArray[np.floating]) -> Iterator[Tensor]:
        """One tensor a block, (n, channels, height, width), of pictures in [0, 1]."""
        x = network_input(pictures, self._device)
        layers = iter(range(sum(BLOCKS)))
        for block, convolutions in enumerate(BLOCKS):
            if block:
                x = max_pool2d(x, kernel_size=2)
            for layer in islice(layers, convolutions):
                weight, bias = (self._weights[f"conv{layer}.{k}"] for k in ("weight", "bias"))
                x = relu(conv2d(x, weight, bias, padding=1))
            yield x

    def head(self, layer: int) -> Tensor:
        """Weights of a block's channels."""
        return self._weights[f"head{layer}.weight"]

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        found, _ = load_arrays(self._path)
        if set(found) != KEYS:
            odd = ", ".join(sorted(set(found) ^ KEYS)[:4])
            raise FileError(
                f"{self._path}: tensors must be conv0 to conv12 and head0 to head4, missing or "
                f"unknown: {odd}: make the file with tools/convert_lpips.py --network vgg --out FILE."
            )
        _check_shapes(self._path, found)
        return {
            name: torch.from_numpy(array).to(self._device, torch.float32)
            for name, array in found.items()
        }


def _check_shapes(path: Path, arrays: Arrays) -> None:
    """Check that each convolution takes what the one before it gives, and each head its block."""
    width, layers = 3, iter(range(sum(BLOCKS)))
    for block, convolutions in enumerate(BLOCKS):
        for layer in islice(layers, convolutions):
            got = arrays[f"conv{layer}.weight"].shape
            if len(got) != 4 or got[1:] != (width, 3, 3):
                wanted = f"of shape (channels, {width}, 3, 3)"
                raise bad_file(path, expected(f"conv{layer}.weight", got, wanted))
            width = got[0]
            array(path, arrays, f"conv{layer}.bias", (width,))
        array(path, arrays, f"head{block}.weight", (1, width, 1, 1))
