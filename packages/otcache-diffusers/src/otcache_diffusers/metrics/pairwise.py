"""Metrics that compare an image with the full run's by a formula: RMSE, PSNR, SSIM, MS-SSIM and HaarPSI."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from otcache_diffusers.compat import load
from otcache_diffusers.metrics.checks import Floats, PairedImages

#: Exponents of the five scales, the finest first: table of section 3.2 of the paper.
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
#: Of HaarPSI.
C, ALPHA = 30.0, 4.2
SCALES = 3
#: Rows Y, I, Q of red, green, blue.
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class Rmse(PairedImages):
    r"""Root mean square error over the pixels and channels of one image.

    .. math:: \mathrm{RMSE}(x, y) = \sqrt{\tfrac{1}{3HW} \sum_{h,w,c} (x_{hwc} - y_{hwc})^2},

    in float64; 0 for identical images, at most 1. A mean over samples is a mean of these
    roots, which differs from the root of a mean square error.
    """

    name = "rmse"
    higher_is_better = False
    pointwise = True

    def _values(self, x: Floats, y: Floats) -> Floats:
        return np.asarray(np.sqrt(_mean_squares(x, y)))


class Psnr(PairedImages):
    r"""Peak signal-to-noise ratio in decibels, peak 1.

    .. math:: \mathrm{PSNR}(x, y) = -10 \log_{10} \tfrac{1}{3HW} \sum_{h,w,c} (x_{hwc} - y_{hwc})^2,

    in float64. Identical images give ``inf``: one such sample makes a plain mean infinite, so take the
    mean of the finite values and state how many images were identical
    (``otcache.report.statistics.mean_interval`` does). A mean of PSNRs is a mean of logarithms:
    it can rank two methods differently than a mean RMSE.
    """

    name = "psnr"
    higher_is_better = True
    pointwise = True

    def _values(self, x: Floats, y: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.asarray(-10.0 * np.log10(_mean_squares(x, y)))


def _mean_squares(x: Floats, y: Floats) -> Floats:
    """Return the mean square difference of each pair over pixels and channels, shape (n,)."""
    return np.asarray(np.mean((x - y) ** 2, axis=(1, 2, 3)))


class Ssim(PairedImages):
    r"""Structural similarity with the Gaussian window of the original paper.

    .. math:: \mathrm{SSIM} = \frac{(2\mu_x\mu_y + C_1)(2\sigma_{xy} + C_2)}
              {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)},
              \quad C_1 = 0.01^2,\ C_2 = 0.03^2,

    per channel in an 11 by 11 window of sigma 1.5 with population covariances, averaged over the
    windows that lie inside the image, then over channels. Identical images give 1; smaller ones than the
    window are refused.

    References:
        Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to
        structural similarity, 2004, https://doi.org/10.1109/TIP.2003.819861. Computed by
        scikit-image's ``structural_similarity`` in float64.

    Raises:
        OtcacheError: if scikit-image is not installed.
    """

    name = "ssim"
    higher_is_better = True
    _smallest = WINDOW

    def __init__(self) -> None:
        self._similarity = load("skimage.metrics:structural_similarity", "ssim")

    def _values(self, x: Floats, y: Floats) -> Floats:
        how = {"data_range": 1.0, "channel_axis": -1, "gaussian_weights": True, "sigma": SIGMA}
        how["use_sample_covariance"] = False
        pairs = zip(x, y, strict=True)
        return np.array([self._similarity(a, b, **how) for a, b in pairs], dtype=np.float64)


class MsSsim(PairedImages):
    r"""Multi-scale structural similarity.

    With M scales, each half as fine as the one before,

    .. math:: \mathrm{MS\text{-}SSIM} = \overline{l\,cs}_M^{\,w_M} \prod_{j<M} \overline{cs}_j^{\,w_j},
              \quad l = \frac{2\mu_x\mu_y + C_1}{\mu_x^2 + \mu_y^2 + C_1},
              \quad cs = \frac{2\sigma_{xy} + C_2}{\sigma_x^2 + \sigma_y^2 + C_2},

    the bar being the mean over the windows (11 by 11, Gaussian of sigma 1.5) that lie inside the
    image; in float64, per channel, then averaged over channels. A scale is the mean of 2 by 2
    pixels of the one before, an odd side being mirrored by one pixel. A mean below 0 counts as 0.

    The paper's five scales need 176 pixels a side. A smaller image has fewer: M is the number of
    halvings that leave at least 11 pixels, plus one (3 for 64 by 64), and the first M exponents are
    divided by their sum. So values at different sizes are not comparable, and below 22 pixels this
    is plain SSIM. Identical images give 1; smaller ones than the window are refused.

    References:
        Wang, Simoncelli, Bovik: Multi-scale structural similarity for image quality assessment,
        2003, https://doi.org/10.1109/ACSSC.2003.1292216.
    """

    name = "ms-ssim"
    higher_is_better = True
    _smallest = WINDOW

    def _values(self, x: Floats, y: Floats) -> Floats:
        return np.array([_similarity(_planes(a), _planes(b)) for a, b in zip(x, y, strict=True)])


def exponents(side: int) -> tuple[float, ...]:
    """Return one exponent per scale for images whose shorter side is this, the finest first."""
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
    """Return means over windows of l cs and of cs, one per channel."""
    mx, my = _blurred(x), _blurred(y)
    vx, vy, vxy = _blurred(x * x) - mx**2, _blurred(y * y) - my**2, _blurred(x * y) - mx * my
    cs = (2 * vxy + C2) / (vx + vy + C2)
    luminance = (2 * mx * my + C1) / (mx**2 + my**2 + C1)
    return (luminance * cs).mean(dim=(1, 2, 3)), cs.mean(dim=(1, 2, 3))


def _blurred(v: Tensor) -> Tensor:
    """Return Gaussian means of the windows inside; by shifted sums, as conv2d is slow in float64."""
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


def _planes(image: Floats) -> Tensor:
    """Return channels as a batch of one-channel images, shape (3, 1, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[:, None]))


class HaarPsi(PairedImages):
    r"""HaarPSI, the Haar wavelet-based perceptual similarity index.

    With :math:`l_\alpha(t) = 1 / (1 + e^{-\alpha t})` and
    :math:`S(a, b) = (2ab + C) / (a^2 + b^2 + C)`,

    .. math:: \mathrm{HaarPSI} = l_\alpha^{-1}\!\left(
              \frac{\sum_k \sum_p l_\alpha(s_k(p))\, W_k(p)}{\sum_k \sum_p W_k(p)} \right)^2,

    :math:`s_k = \tfrac12 \sum_{j=1}^2 S(|g_{jk} * Y_x|, |g_{jk} * Y_y|)` and
    :math:`W_k = \max(|g_{3k} * Y_x|, |g_{3k} * Y_y|)` for horizontal and vertical wavelets k = 1, 2
    of scales j, :math:`s_3` the same mean of S over I and Q smoothed by 2 by 2 pixels,
    :math:`W_3 = (W_1 + W_2) / 2`. Images are taken to [0, 255], to Y, I, Q and to half their size
    first; C = 30 and alpha = 4.2; outside the image there is black. Computed in float64, between
    0 and 1, and 1 for identical images. Where no wavelet of the third scale responds (both
    images without light) the similarities are weighted alike.

    It sees edges and hue, and hardly a shift of brightness: show it beside PSNR, not instead. Images
    need at least 16 by 16 pixels.

    References:
        Reisenhofer, Bosse, Kutyniok, Wiegand: A Haar wavelet-based perceptual similarity index for
        image quality assessment, 2018, https://arxiv.org/abs/1607.06140, section 3 and the
        conversion to Y, I, Q of the authors' code.
    """

    name = "haarpsi"
    higher_is_better = True
    _smallest = 16

    def _values(self, x: Floats, y: Floats) -> Floats:
        return np.array([_index(_yiq(a), _yiq(b)) for a, b in zip(x, y, strict=True)])


def _index(x: Tensor, y: Tensor) -> float:
    """Compute the index of two images in Y, I, Q, shape (3, 1, height, width)."""
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
    """Return magnitudes of the responses, shape (2, 3, height, width): orientation, scale."""
    responses = []
    for side in (2 ** (j + 1) for j in range(SCALES)):
        haar = torch.full((side, side), 1.0 / side, dtype=torch.float64)
        haar[side // 2 :] *= -1.0
        before, after = side // 2 - 1, side // 2
        framed = pad(luma, (before, after, before, after))
        responses.append(conv2d(framed, torch.stack([haar, haar.T])[:, None])[0].abs())
    return torch.stack(responses, dim=1)


def _smoothed(hues: Tensor) -> Tensor:
    return avg_pool2d(pad(hues, (0, 1, 0, 1)), 2, stride=1).abs()


def _yiq(image: Floats) -> Tensor:
    """Return Y, I, Q at half the size, shape (3, 1, height, width), of an image in [0, 1]."""
    planes = np.einsum("kc,hwc->khw", np.array(YIQ), 255.0 * image)
    height, width = image.shape[:2]
    return avg_pool2d(pad(torch.from_numpy(planes)[:, None], (0, width % 2, 0, height % 2)), 2)
