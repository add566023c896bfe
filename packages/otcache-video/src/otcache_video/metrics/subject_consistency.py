"""Whether what a clip shows stays the same as much as in the full run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts.metric import ClipMetric
from otcache_diffusers.metrics.alexnet import SMALLEST, AlexNet
from otcache_video.metrics.clips import Clip, clip_by_clip
from otcache_video.metrics.dino import Dino
from otcache_video.metrics.kept import Kept


class SubjectConsistency(ClipMetric):
    r"""How far a clip's subject consistency is from that of the full run's clip,

    .. math:: \mathrm{value}(x, y) = |S(x) - S(y)|, \quad S(v) = \tfrac{1}{F-1} \sum_{t=2}^{F}
              \tfrac12 \bigl(\cos(f_1, f_t)^+ + \cos(f_{t-1}, f_t)^+\bigr),

    with f_t the features of frame t and ( )^+ the positive part: VBench's subject consistency, which
    takes the class token of a DINO vision transformer. Given its folder, so does this metric;
    without one features are the 256 channels of AlexNet's fifth rectified convolution (of LPIPS,
    shipped), mean over positions, whose cosines lie nearer to 1. Figures of the two are not
    comparable.

    Laws: a subject that appears, melts or jumps lowers S; a still clip has S = 1, and so costs what
    the reference lacks of it. Features are of whole frames, so a background counts too.

    References:
        Huang and others: VBench: comprehensive benchmark suite for video generative models, 2023,
        https://arxiv.org/abs/2311.17982.
        Caron and others: Emerging properties in self-supervised vision transformers, 2021,
        https://arxiv.org/abs/2104.14294.

    Args:
        path: folder of a DINO ViT as transformers writes it, such as a copy of facebook/dino-vitb16;
            None for AlexNet. Loaded on the first call.
        batch: frames per forward pass, at least 1.
        device: where to run, as torch names it.

    Raises:
        OtcacheError: if there is no such folder, or a file is missing in it.
    """

    name = "subject-consistency"
    higher_is_better = False

    def __init__(
        self, path: str | Path | None = None, batch: int = 32, device: str = "cpu"
    ) -> None:
        self._batch, where = max(1, batch), torch.device(device)
        self._smallest = SMALLEST if path is None else 1
        self._features = _Pooled(where) if path is None else Dino(path, where)
        self._of_reference = Kept(self._consistency)

    def __call__(
        self, clips: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare clip by clip: shape (n, frames, height, width, 3) to (n,), 0 to 1.

        Raises:
            OtcacheError: if shapes differ, there is one frame alone, frames are smaller than 31 by
                31 (AlexNet), or values are not floating point in [0, 1].
        """
        return clip_by_clip(self._value, clips, reference, self._smallest)

    def _value(self, x: Clip, y: Clip) -> float:
        return abs(self._consistency(x) - self._of_reference(y))

    def _consistency(self, clip: Clip) -> float:
        starts = range(0, len(clip), self._batch)
        with torch.inference_mode():
            f = torch.cat([self._features(clip[i : i + self._batch]) for i in starts]).double()
            cosines = [torch.cosine_similarity(f[1:], v, dim=1) for v in (f[:1], f[:-1])]
        return float(torch.stack(cosines).clamp(min=0.0).mean())


class _Pooled:
    """Deepest features of AlexNet, mean over positions, shape (n, 256)."""

    def __init__(self, device: torch.device) -> None:
        self._network = AlexNet(device)

    def __call__(self, pictures: Clip) -> Tensor:
        *_, deepest = self._network.features(pictures)
        return deepest.mean(dim=(2, 3))
