"""Whether a clip moves as much as the full run's."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts.metric import ClipMetric
from otcache_video.metrics.clips import Clip, clip_by_clip
from otcache_video.metrics.flow import SMALLEST, frames, optical_flow
from otcache_video.metrics.kept import Kept

#: epsilon, in pixels a frame: motion that flow can hardly tell from noise.
STILL = 0.05


class MotionMagnitude(ClipMetric):
    r"""How far the ratio of both clips' motion is from 1, as a logarithm,

    .. math:: \mathrm{value}(x, y) = \left| \ln \frac{m(x) + \varepsilon}{m(y) + \varepsilon} \right|,
              \quad m(v) = \operatorname*{mean}_{t < F,\, p} \| w_t(p) \|,

    where w_t is the optical flow from frame t to t+1 of the clip itself
    (:func:`~otcache_video.metrics.flow.optical_flow`) in pixels, and epsilon 0.05 pixels a frame.

    Laws: half or double the motion costs ln 2 = 0.69, but for epsilon; both directions of time cost
    about the same, and so does any other motion of the same amount. Two clips that stand still cost
    0; one that stands still where the other moves by m costs ln(1 + m / epsilon), 3.0 for a pixel a
    frame. Differences of motion far below epsilon do not count.

    References:
        Huang and others: VBench: comprehensive benchmark suite for video generative models, 2023,
        https://arxiv.org/abs/2311.17982 (dynamic degree, there without a reference).
    """

    name = "motion-magnitude"
    higher_is_better = False

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._of_reference = Kept(self._magnitude)

    def __call__(
        self, clips: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare clip by clip: shape (n, frames, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, frames are smaller than 7 by 7,
                or values are not floating point in [0, 1].
        """
        return clip_by_clip(self._value, clips, reference, SMALLEST)

    def _value(self, x: Clip, y: Clip) -> float:
        made, full = self._magnitude(x) + STILL, self._of_reference(y) + STILL
        return abs(math.log(made / full))

    def _magnitude(self, clip: Clip) -> float:
        moving = frames(clip, self._device)
        return float(optical_flow(moving[:-1], moving[1:]).norm(dim=1).mean())
