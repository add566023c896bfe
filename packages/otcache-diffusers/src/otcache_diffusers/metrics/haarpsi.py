"""Perceptual similarity by Haar wavelets."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.pairs import check_pairs

C, ALPHA = 30.0, 4.2
SCALES = 3
SMALLEST = 16
#: Rows Y, I, Q of red, green, blue.
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class HaarPsi(QualityMetric):
    r"""HaarPSI, the Haar wavelet-based perceptual similarity index: with
    :math:`l_\alpha(t) = 1 / (1 + e^{-\alpha t})` and
    :math:`S(a, b) = (2ab + C) / (a^2 + b^2 + C)`,

    .. math:: \mathrm{HaarPSI} = l_\alpha^{-1}\!\left(
              \frac{\sum_k \sum_p l_\alpha(s_k(p))\, W_k(p)}{\sum_k \sum_p W_k(p)} \right)^2,

    :math:`s_k = \tfrac12 \sum_{j=1}^2 S(|g_{jk} * Y_x|, |g_{jk} * Y_y|)` and
    :math:`W_k = \max(|g_{3k} * Y_x|, |g_{3k} * Y_y|)` for horizontal and vertical wavelets k = 1, 2
    of scales j, :math:`s_3` the same mean of S over I and Q smoothed by 2 by 2 pixels,
    :math:`W_3 = (W_1 + W_2) / 2`. Pictures are taken to [0, 255], to Y, I, Q and to half their size
    first; C = 30 and alpha = 4.2; outside the picture there is black. Computed in float64, between
    0 and 1, and 1 for identical pictures. Where no wavelet of the third scale responds (both
    pictures without light) the similarities are weighted alike.

    It sees edges and hue, and hardly a shift of brightness: show it beside PSNR, not instead.

    References:
        Reisenhofer, Bosse, Kutyniok, Wiegand: A Haar wavelet-based perceptual similarity index for
        image quality assessment, 2018, https://arxiv.org/abs/1607.06140, section 3 and the
        conversion to Y, I, Q of the authors' code.
    """

    name = "haarpsi"
    higher_is_better = True

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, pictures are smaller than 16 by 16, or values are not
                floating point in [0, 1].
        """
        pairs = zip(*check_pairs(images, reference, smallest=SMALLEST), strict=True)
        return np.array([_index(_yiq(x), _yiq(y)) for x, y in pairs], dtype=np.float64)


def _index(x: Tensor, y: Tensor) -> float:
    """The index of two pictures in Y, I, Q, shape (3, 1, height, width)."""
    wx, wy = _wavelets(x[:1]), _wavelets(y[:1])
    edges = _agreement(wx[:, :2], wy[:, :2]).mean(dim=1)
    hues = _agreement(_smoothed(x[1:]), _smoothed(y[1:])).mean(dim=0)
    weights = torch.maximum(wx[:, 2], wy[:, 2])
    s = torch.cat([edges, hues])
    w = torch.cat([weights, weights.mean(dim=0, keepdim=True)])
    if not w.any():
        w = torch.ones_like(w)
    mean = (torch.sigmoid(ALPHA * s) * w).sum() / w.sum()
    return float((torch.logit(mean) / ALPHA) ** 2)


def _agreement(a: Tensor, b: Tensor) -> Tensor:
    return (2 * a * b + C) / (a**2 + b**2 + C)


def _wavelets(luma: Tensor) -> Tensor:
    """Magnitudes of the responses, shape (2, 3, height, width): orientation, scale."""
    found = []
    for side in (2 ** (j + 1) for j in range(SCALES)):
        haar = torch.full((side, side), 1.0 / side, dtype=torch.float64)
        haar[side // 2 :] *= -1.0
        before, after = side // 2 - 1, side // 2
        framed = pad(luma, (before, after, before, after))
        found.append(conv2d(framed, torch.stack([haar, haar.T])[:, None])[0].abs())
    return torch.stack(found, dim=1)


def _smoothed(hues: Tensor) -> Tensor:
    return avg_pool2d(pad(hues, (0, 1, 0, 1)), 2, stride=1).abs()


def _yiq(picture: NDArray[np.float64]) -> Tensor:
    """Y, I, Q at half the size, shape (3, 1, height, width), of a picture in [0, 1]."""
    planes = np.einsum("kc,hwc->khw", np.array(YIQ), 255.0 * picture)
    height, width = picture.shape[:2]
    return avg_pool2d(pad(torch.from_numpy(planes)[:, None], (0, width % 2, 0, height % 2)), 2)
