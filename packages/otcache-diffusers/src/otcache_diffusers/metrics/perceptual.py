"""The distance of two pictures on the layers of a network, which LPIPS has on several networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Backbone(ABC):
    """A network that gives features, layer by layer, and the head that weighs each layer.

    Attributes:
        smallest: least height and width of an image that the deepest layer can see.
    """

    smallest: ClassVar[int]

    @abstractmethod
    def features(self, pictures: NDArray[np.floating]) -> Iterator[Tensor]:
        """Rectified features of each layer, shape (n, channels, height, width).

        Args:
            pictures: shape (n, height, width, 3), range [0, 1].
        """

    @abstractmethod
    def head(self, layer: int) -> Tensor:
        """Weights of a layer's channels, none below 0, shape (1, channels, 1, 1)."""


def distances(
    network: Backbone, x: NDArray[np.floating], y: NDArray[np.floating], batch: int
) -> NDArray[np.float64]:
    r"""LPIPS of each pair of pictures, shape (n,), in batches of ``batch`` pairs:

    .. math:: d(x, y) = \sum_l \tfrac{1}{H_l W_l} \sum_{h,w}
              \sum_c w_{lc} \left(\hat x^l_{hwc} - \hat y^l_{hwc}\right)^2,

    where features are divided by their norm over channels (plus 1e-10).
    """
    starts = range(0, len(x), batch)
    with torch.inference_mode():
        parts = [_distances(network, x[i : i + batch], y[i : i + batch]) for i in starts]
    return torch.cat(parts).double().cpu().numpy()


def network_input(pictures: NDArray[np.floating], device: torch.device) -> Tensor:
    """Pictures in [0, 1] taken to [-1, 1], shifted and scaled as the networks were trained."""
    x = torch.from_numpy(pictures).to(device, torch.float32).permute(0, 3, 1, 2)
    shift, scale = (x.new_tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
    return (2.0 * x - 1.0 - shift) / scale


def _distances(network: Backbone, x: NDArray[np.floating], y: NDArray[np.floating]) -> Tensor:
    layers = zip(network.features(x), network.features(y), strict=True)
    parts = [
        conv2d((_unit(fx) - _unit(fy)) ** 2, network.head(layer)).mean(dim=(1, 2, 3))
        for layer, (fx, fy) in enumerate(layers)
    ]
    return torch.stack(parts).sum(dim=0)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
