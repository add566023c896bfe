"""Error along the reference's motion."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts.metric import ClipMetric
from otcache_video.metrics.clips import Clip, clip_by_clip
from otcache_video.metrics.flow import SMALLEST, frames, optical_flow, visible, warp
from otcache_video.metrics.kept import Kept


class WarpingError(ClipMetric):
    r"""How much worse than the full run's clip a clip keeps its colours along that one's motion,

    .. math:: \mathrm{value}(x, y) = \tfrac{1}{F-1} \sum_{t < F} \bigl| E_t(x) - E_t(y) \bigr|,
              \quad E_t(v) = \sqrt{\operatorname*{mean}_{p \in M_t,\, c}
              \bigl(v_t(p) - v_{t+1}(p + w_t(p))\bigr)_c^2},

    where w_t is the optical flow of the reference y from frame t to t+1
    (:func:`~otcache_video.metrics.flow.optical_flow`) and M_t are the pixels that it finds in both
    frames (:func:`~otcache_video.metrics.flow.visible`); a step that has none counts as 0. E_t is the
    warping error of Lai and others, here with a root, which makes it a colour in [0, 1], and with the
    reference's flow for both clips. The reference's own error, from edges, resampling and what flow
    cannot follow, is taken away, so that identical clips give 0.

    Laws: on a reference that stands still the flow is 0, and brightness that alternates between +a
    and -a costs 2a; a clip that stands still, or moves at another speed, leaves the reference's
    motion and costs what its colours differ along it.

    References:
        Lai, Huang, Wang, Shechtman, Yumer, Yang: Learning blind video temporal consistency, 2018,
        https://arxiv.org/abs/1808.00449.
    """

    name = "warping-error"
    higher_is_better = False

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._motion = Kept(self._find_motion, _size)

    def __call__(
        self, clips: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare clip by clip: shape (n, frames, height, width, 3) to (n,), 0 to 1.

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, frames are smaller than 7 by 7,
                or values are not floating point in [0, 1].
        """
        return clip_by_clip(self._value, clips, reference, SMALLEST)

    def _value(self, x: Clip, y: Clip) -> float:
        flow, seen, own = self._motion(y)
        return float((_errors(frames(x, self._device), flow, seen) - own).abs().mean())

    def _find_motion(self, reference: Clip) -> tuple[Tensor, Tensor, Tensor]:
        """Flow w_t, the pixels M_t, and the reference's own errors."""
        full = frames(reference, self._device)
        forward, backward = optical_flow(full[:-1], full[1:]), optical_flow(full[1:], full[:-1])
        seen = visible(forward, backward)
        return forward, seen, _errors(full, forward, seen)


def _errors(clip: Tensor, flow: Tensor, seen: Tensor) -> Tensor:
    """E_t of each step, shape (frames - 1,)."""
    squares = (clip[:-1] - warp(clip[1:], flow)).square().mean(dim=1) * seen
    return (squares.sum(dim=(1, 2)) / seen.sum(dim=(1, 2)).clamp(min=1)).sqrt()


def _size(found: tuple[Tensor, ...]) -> int:
    return sum(part.nbytes for part in found)
