"""Error of the perceptual changes from frame to frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.metric import ClipMetric
from otcache_diffusers.metrics.alexnet import SMALLEST
from otcache_diffusers.metrics.lpips import Lpips
from otcache_video.metrics.clips import Clip, clip_by_clip
from otcache_video.metrics.kept import Kept


class TemporalLpips(ClipMetric):
    r"""tLP: how much more or less a clip changes from frame to frame than the full run's, to the eye,

    .. math:: \mathrm{tLP}(x, y) = \tfrac{1}{F-1} \sum_{t < F}
              \bigl| d(x_t, x_{t+1}) - d(y_t, y_{t+1}) \bigr|,

    with d the LPIPS of otcache-diffusers (version 0.1, AlexNet), whose batches and needs it has.

    Laws: it sees how much changes, not what: a clip played backwards against another of the same
    speed costs little, and a still clip costs the mean LPIPS of the reference's successive frames.

    References:
        Chu, Xie, Mayer, Leal-Taixe, Thuerey: Learning temporal coherence via self-supervision for
        GAN-based video generation (TecoGAN), 2018, https://arxiv.org/abs/1811.09393.

    Args:
        batch: pairs of frames per forward pass, at least 1.
        device: where to run, as torch names it.
    """

    name = "temporal-lpips"
    higher_is_better = False

    def __init__(self, batch: int = 32, device: str = "cpu") -> None:
        self._distance = Lpips(batch, device)
        self._of_reference = Kept(self._steps, _size)

    def __call__(
        self, clips: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare clip by clip: shape (n, frames, height, width, 3) to (n,).

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, frames are smaller than 31 by
                31, or values are not floating point in [0, 1].
        """
        return clip_by_clip(self._value, clips, reference, SMALLEST)

    def _value(self, x: Clip, y: Clip) -> float:
        return float(np.mean(np.abs(self._steps(x) - self._of_reference(y))))

    def _steps(self, clip: Clip) -> NDArray[np.float64]:
        """LPIPS of successive frames, shape (frames - 1,)."""
        return self._distance(clip[:-1], clip[1:])


def _size(found: NDArray[np.float64]) -> int:
    return found.nbytes
