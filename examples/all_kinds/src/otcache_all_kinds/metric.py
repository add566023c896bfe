"""The metric."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.contracts import QualityMetric
from otcache_core.errors import expected


@final
class MeanAbsolute(QualityMetric):
    """Mean absolute difference over all pixels and channels: the average distance of two images."""

    name = "mae"
    higher_is_better = False
    pointwise = True

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare image by image, in float64."""
        if images.shape != reference.shape:
            raise OtcacheError(
                expected("shape", images.shape, f"the reference's, {reference.shape}")
            )
        x, y = (_checked(x) for x in (images, reference))
        return np.asarray(np.abs(x - y).mean(axis=(1, 2, 3)))


def _checked(images: NDArray[np.floating]) -> NDArray[np.float64]:
    if not np.issubdtype(images.dtype, np.floating):
        raise OtcacheError(expected("images", images.dtype, "floating point in [0, 1]"))
    if not (images.min(initial=0.0) >= 0 and images.max(initial=0.0) <= 1):
        raise OtcacheError(expected("images", "values beyond", "in [0, 1]"))
    return images.astype(np.float64)
