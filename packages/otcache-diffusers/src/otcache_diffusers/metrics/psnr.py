"""Peak signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.pairs import mean_squares


class Psnr(QualityMetric):
    r"""Peak signal-to-noise ratio in decibels, peak 1,

    .. math:: \mathrm{PSNR}(x, y) = -10 \log_{10} \tfrac{1}{3HW} \sum_{h,w,c} (x_{hwc} - y_{hwc})^2,

    in float64. Identical pictures give ``inf``: one such sample makes a plain mean infinite, so
    whoever averages takes the mean of the finite values and states how many pictures were
    identical (``otcache.report.statistics.mean_interval`` does). A mean of PSNRs is a mean of logarithms:
    it can rank two methods otherwise than a mean RMSE does.
    """

    name = "psnr"
    higher_is_better = True
    pointwise = True

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, height, width, 3) to (n,), inf where identical.

        Raises:
            OtcacheError: if shapes differ, or values are not floating point in [0, 1].
        """
        with np.errstate(divide="ignore"):
            return np.asarray(-10.0 * np.log10(mean_squares(images, reference)))
