"""Structural similarity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.compat import load
from otcache_diffusers.metrics.pairs import check_pairs

SSIM_WINDOW = 11


class Ssim(QualityMetric):
    r"""Structural similarity with the Gaussian window of the original paper,

    .. math:: \mathrm{SSIM} = \frac{(2\mu_x\mu_y + C_1)(2\sigma_{xy} + C_2)}
              {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)},
              \quad C_1 = 0.01^2,\ C_2 = 0.03^2,

    per channel in an 11 by 11 window of sigma 1.5 with population covariances, averaged over the
    windows that lie inside the picture, then over channels. Identical pictures give 1.

    References:
        Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to
        structural similarity, 2004, https://doi.org/10.1109/TIP.2003.819861. Computed by
        scikit-image's ``structural_similarity`` in float64.

    Raises:
        OtcacheError: if scikit-image is not installed.
    """

    name = "ssim"
    higher_is_better = True

    def __init__(self) -> None:
        self._similarity = load("skimage.metrics:structural_similarity", "ssim")

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, pictures are smaller than the window, or values are
                not floating point in [0, 1].
        """
        pairs = zip(*check_pairs(images, reference, smallest=SSIM_WINDOW), strict=True)
        return np.array([self._of(x, y) for x, y in pairs], dtype=np.float64)

    def _of(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float(
            self._similarity(
                x,
                y,
                data_range=1.0,
                channel_axis=-1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
