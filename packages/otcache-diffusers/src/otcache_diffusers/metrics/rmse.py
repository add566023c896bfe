"""Root mean square error of decoded pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.pairs import mean_squares


class Rmse(QualityMetric):
    r"""Root mean square error over the pixels and channels of one picture,

    .. math:: \mathrm{RMSE}(x, y) = \sqrt{\tfrac{1}{3HW} \sum_{h,w,c} (x_{hwc} - y_{hwc})^2},

    in float64; 0 for identical pictures, at most 1. A mean over samples is a mean of these
    roots, which differs from the root of a mean square error.
    """

    name = "rmse"
    higher_is_better = False
    pointwise = True

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, or values are not floating point in [0, 1].
        """
        return np.asarray(np.sqrt(mean_squares(images, reference)))
