"""Structural similarity over several scales."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.pairs import check_pairs

#: Exponents of the five scales, the finest first: table of section 3.2 of the paper.
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


class MsSsim(QualityMetric):
    r"""Multi-scale structural similarity: with M scales, each half as fine as the one before,

    .. math:: \mathrm{MS\text{-}SSIM} = \overline{l\,cs}_M^{\,w_M} \prod_{j<M} \overline{cs}_j^{\,w_j},
              \quad l = \frac{2\mu_x\mu_y + C_1}{\mu_x^2 + \mu_y^2 + C_1},
              \quad cs = \frac{2\sigma_{xy} + C_2}{\sigma_x^2 + \sigma_y^2 + C_2},

    the bar being the mean over the windows (11 by 11, Gaussian of sigma 1.5) that lie inside the
    picture; in float64, per channel, then averaged over channels. A scale is the mean of 2 by 2
    pixels of the one before, an odd side being mirrored by one pixel. A mean below 0 counts as 0.

    The paper's five scales need 176 pixels a side. A smaller picture has fewer: M is the number of
    halvings that leave at least 11 pixels, plus one (3 for 64 by 64), and the first M exponents are
    divided by their sum. So values at different sizes are not comparable, and below 22 pixels this
    is plain SSIM. Identical pictures give 1.

    References:
        Wang, Simoncelli, Bovik: Multi-scale structural similarity for image quality assessment,
        2003, https://doi.org/10.1109/ACSSC.2003.1292216.
    """

    name = "ms-ssim"
    higher_is_better = True

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, pictures are smaller than the window, or values are
                not floating point in [0, 1].
        """
        pairs = zip(*check_pairs(images, reference, smallest=WINDOW), strict=True)
        return np.array([_similarity(_planes(x), _planes(y)) for x, y in pairs], dtype=np.float64)


def exponents(side: int) -> tuple[float, ...]:
    """One exponent a scale for pictures whose shorter side is this, the finest first."""
    count = 1
    while count < len(EXPONENTS) and side // 2**count >= WINDOW:
        count += 1
    if count == len(EXPONENTS):
        return EXPONENTS  # as printed, though they make 1.0001
    return tuple(w / sum(EXPONENTS[:count]) for w in EXPONENTS[:count])


def _similarity(x: Tensor, y: Tensor) -> float:
    weights = exponents(min(x.shape[-2:]))
    product = torch.ones(3, dtype=torch.float64)
    for scale, w in enumerate(weights, 1):
        whole, structure = _terms(x, y)
        product *= (whole if scale == len(weights) else structure).clamp(min=0.0) ** w
        x, y = _halved(x), _halved(y)
    return float(product.mean())


def _terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means over windows of l cs and of cs, one a channel."""
    mx, my = _blurred(x), _blurred(y)
    vx, vy, vxy = _blurred(x * x) - mx**2, _blurred(y * y) - my**2, _blurred(x * y) - mx * my
    cs = (2 * vxy + C2) / (vx + vy + C2)
    luminance = (2 * mx * my + C1) / (mx**2 + my**2 + C1)
    return (luminance * cs).mean(dim=(1, 2, 3)), cs.mean(dim=(1, 2, 3))


def _blurred(v: Tensor) -> Tensor:
    """Gaussian means of the windows inside; shifted sums, as conv2d is slow in float64."""
    g = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    weights = (g / g.sum()).tolist()
    for dim in (-2, -1):
        count = v.shape[dim] - WINDOW + 1
        total = torch.zeros_like(v.narrow(dim, 0, count))
        for k, w in enumerate(weights):
            total.add_(v.narrow(dim, k, count), alpha=w)
        v = total
    return v


def _halved(v: Tensor) -> Tensor:
    height, width = v.shape[-2:]
    return avg_pool2d(pad(v, (0, width % 2, 0, height % 2), mode="replicate"), 2)


def _planes(picture: NDArray[np.float64]) -> Tensor:
    """Channels as a batch of one-channel pictures, shape (3, 1, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[:, None]))
