"""Error of the changes from frame to frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.metric import ClipMetric
from otcache_video.metrics.clips import Clip, clip_by_clip


class Flicker(ClipMetric):
    r"""Root mean square error of temporal differences, over F frames,

    .. math:: \mathrm{flicker}(x, y) = \sqrt{\tfrac{1}{3(F-1)HW} \sum_{t < F} \sum_{h,w,c}
              \bigl((x_{t+1} - x_t) - (y_{t+1} - y_t)\bigr)_{hwc}^2},

    in float64. Video matting knows it as dtSSD, there a mean over t of each step's root. It is not
    VBench's temporal flickering, the mean absolute difference of one clip's successive frames, which
    has no reference and takes motion for flicker.

    Laws: with e = x - y it is the root mean square of e_{t+1} - e_t, so an error that stays the same
    in every frame costs nothing; brightness that alternates between +a and -a costs 2a; it is at most
    2 sqrt(F / (F - 1)) times the RMSE of the clip.

    References:
        Erofeev, Gitman, Vatolin, Fedorov, Wang: Perceptually motivated benchmark for video matting,
        2015, https://doi.org/10.5244/C.29.99.
        Huang and others: VBench: comprehensive benchmark suite for video generative models, 2023,
        https://arxiv.org/abs/2311.17982.
    """

    name = "flicker"
    higher_is_better = False

    def __call__(
        self, clips: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare clip by clip: shape (n, frames, height, width, 3) to (n,), 0 to 2.

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, or values are not floating
                point in [0, 1].
        """
        return clip_by_clip(_flicker, clips, reference)


def _flicker(x: Clip, y: Clip) -> float:
    return float(np.sqrt(np.mean(np.diff(x - y, axis=0) ** 2)))
