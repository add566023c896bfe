"""AlexNet and VGG16 with the linear heads of LPIPS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files
from itertools import count, islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from otcache_core.errors import FileError, expected
from otcache_core.storage.array_files import Arrays, array, load_arrays
from otcache_core.storage.files import bad_file

#: Of each layer: side of the pooling before it, 0 for none, and stride and padding of its convolutions.
Layers = tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
#: Convolutions of each block of VGG16; the features of a block are those after its last one.
BLOCKS = (2, 2, 3, 3, 3)
KEYS = frozenset(
    {f"conv{i}.{k}" for i in range(sum(BLOCKS)) for k in ("weight", "bias")}
    | {f"head{i}.weight" for i in range(len(BLOCKS))}
)
#: How images are shifted and scaled.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Backbone(ABC):
    """A network that computes features, layer by layer, with the head that weighs each layer.

    Attributes:
        smallest: least height and width of an image that the deepest layer can see.
    """

    smallest: ClassVar[int]
    _layers: ClassVar[Layers]

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    @abstractmethod
    def _weights(self) -> dict[str, Tensor]:
        """``conv0.weight``, ``conv0.bias``, ... and ``head0.weight``, ..., on the device in float32."""

    def features(self, images: NDArray[np.floating]) -> Iterator[Tensor]:
        """Yield the rectified features of each layer, shape (n, channels, height, width).

        Args:
            images: shape (n, height, width, 3), range [0, 1].
        """
        x, names = _network_input(images, self._device), (f"conv{n}" for n in count())
        for pool, convolutions in self._layers:
            if pool:
                x = max_pool2d(x, kernel_size=pool, stride=2)
            for (stride, padding), name in zip(convolutions, names, strict=False):
                weight, bias = (self._weights[f"{name}.{k}"] for k in ("weight", "bias"))
                x = relu(conv2d(x, weight, bias, stride=stride, padding=padding))
            yield x

    def head(self, layer: int) -> Tensor:
        """Return the weights of a layer's channels, none below 0, shape (1, channels, 1, 1)."""
        return self._weights[f"head{layer}.weight"]


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
    _layers = (
        (0, ((4, 2),)),
        (3, ((1, 2),)),
        (3, ((1, 1),)),
        (0, ((1, 1),)),
        (0, ((1, 1),)),
    )

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        packed = files("otcache_diffusers.metrics").joinpath("weights/lpips_alex.safetensors")
        return {
            name: tensor.to(self._device, torch.float32)
            for name, tensor in load(packed.read_bytes()).items()
        }


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
    _layers = tuple((2 if n else 0, ((1, 1),) * depth) for n, depth in enumerate(BLOCKS))

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__(device)
        self._path = path

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        arrays, _ = load_arrays(self._path)
        if set(arrays) != KEYS:
            odd = ", ".join(sorted(set(arrays) ^ KEYS)[:4])
            raise FileError(
                f"{self._path}: tensors must be conv0 to conv12 and head0 to head4, missing or "
                f"unknown: {odd}: make the file with tools/convert_lpips.py --network vgg --out FILE."
            )
        _check_shapes(self._path, arrays)
        return {
            name: torch.from_numpy(array).to(self._device, torch.float32)
            for name, array in arrays.items()
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


def _network_input(images: NDArray[np.floating], device: torch.device) -> Tensor:
    """Map images from [0, 1] to [-1, 1], and shift and scale them as the networks were trained."""
    x = torch.from_numpy(images).to(device, torch.float32).permute(0, 3, 1, 2)
    shift, scale = (x.new_tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
    return (2.0 * x - 1.0 - shift) / scale
