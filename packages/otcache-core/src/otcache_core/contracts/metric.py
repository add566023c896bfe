"""Contract of a quality metric."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class QualityMetric(ABC):
    """Compare accelerated pictures with the full run's, one number a pair.

    Attributes:
        name: short name, as tables print it.
        higher_is_better: True for PSNR and SSIM, False for distances.
    """

    name: str
    higher_is_better: bool

    @abstractmethod
    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture.

        Args:
            images: accelerated pictures, shape (n, height, width, 3), range [0, 1].
            reference: the full run's pictures, same shape and range.

        Returns:
            Shape (n,), float64. For identical pictures a distance is 0 and SSIM is 1.

        Raises:
            OtcacheError: if shapes differ, or values leave [0, 1] or are not floating point.
        """
