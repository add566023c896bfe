"""Metrics of deep features over time: temporal LPIPS and subject consistency."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from otcache_diffusers.metrics.backbones import AlexNet
from otcache_diffusers.metrics.checks import load_pretrained, local_path
from otcache_diffusers.metrics.lpips import Lpips
from otcache_video.metrics.pairs import Memory, PairedVideos, Video

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
FILES = ("config.json", "model.safetensors")
ADVICE = (
    "give the folder of a DINO ViT as transformers' save_pretrained writes it, such as a copy of "
    "facebook/dino-vitb16."
)


class TemporalLpips(PairedVideos):
    r"""tLP: how much more or less a video changes from frame to frame than the full run's, as LPIPS sees it.

    .. math:: \mathrm{tLP}(x, y) = \tfrac{1}{F-1} \sum_{t < F}
              \bigl| d(x_t, x_{t+1}) - d(y_t, y_{t+1}) \bigr|,

    with d the LPIPS of otcache-diffusers (version 0.1, AlexNet), whose batches and needs it has.

    Properties: it sees how much changes, not what: a video played backwards against another of the same
    speed costs little, and a still video costs the mean LPIPS of the reference's successive frames.

    References:
        Chu, Xie, Mayer, Leal-Taixe, Thuerey: Learning temporal coherence via self-supervision for
        GAN-based video generation (TecoGAN), 2018, https://arxiv.org/abs/1811.09393.

    Args:
        batch: pairs of frames per forward pass, at least 1.
        device: where to run, as torch names it.
    """

    name = "temporal-lpips"
    _smallest = AlexNet.smallest

    def __init__(self, batch: int = 32, device: str = "cpu") -> None:
        self._distance = Lpips(batch, device)
        self._of_reference = Memory(self._steps)

    def _value(self, x: Video, y: Video) -> float:
        return float(np.mean(np.abs(self._steps(x) - self._of_reference(y))))

    def _steps(self, video: Video) -> NDArray[np.float64]:
        """Return LPIPS of successive frames, shape (frames - 1,)."""
        return self._distance(video[:-1], video[1:])


class SubjectConsistency(PairedVideos):
    r"""How far a video's subject consistency is from that of the full run's video.

    .. math:: \mathrm{value}(x, y) = |S(x) - S(y)|, \quad S(v) = \tfrac{1}{F-1} \sum_{t=2}^{F}
              \tfrac12 \bigl(\cos(f_1, f_t)^+ + \cos(f_{t-1}, f_t)^+\bigr),

    with f_t the features of frame t and ( )^+ the positive part: VBench's subject consistency, which
    takes the class token of a DINO vision transformer. Given its folder, so does this metric;
    without one features are the 256 channels of AlexNet's fifth rectified convolution (of LPIPS,
    shipped), mean over positions, whose cosines lie nearer to 1. Figures of the two are not
    comparable.

    Properties: a subject that appears, melts or jumps lowers S; a still video has S = 1, and so costs what
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

    def __init__(
        self, path: str | Path | None = None, batch: int = 32, device: str = "cpu"
    ) -> None:
        self._batch, where = max(1, batch), torch.device(device)
        self._smallest = AlexNet.smallest if path is None else 1
        self._features = _Pooled(where) if path is None else Dino(path, where)
        self._of_reference = Memory(self._consistency)

    def _value(self, x: Video, y: Video) -> float:
        return abs(self._consistency(x) - self._of_reference(y))

    def _consistency(self, video: Video) -> float:
        starts = range(0, len(video), self._batch)
        with torch.inference_mode():
            f = torch.cat([self._features(video[i : i + self._batch]) for i in starts]).double()
            cosines = [torch.cosine_similarity(f[1:], v, dim=1) for v in (f[:1], f[:-1])]
        return float(torch.stack(cosines).clamp(min=0.0).mean())


class _Pooled:
    """The deepest features of AlexNet, mean over positions, shape (n, 256)."""

    def __init__(self, device: torch.device) -> None:
        self._network = AlexNet(device)

    def __call__(self, images: Video) -> Tensor:
        *_, deepest = self._network.features(images)
        return deepest.mean(dim=(2, 3))


class Dino:
    """The class token of frames whose shorter side is resized to the transformer's input, in float32.

    Pixels are resized and normalised, and positions interpolated, as VBench does it.

    Args:
        path: folder of a ViT, as transformers writes it, with safetensors; loaded on first use.
        device: where to run.

    Raises:
        OtcacheError: if there is no such folder, or a file is missing in it.
    """

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self._folder = local_path(path, "subject-consistency: the DINO model", ADVICE, FILES)
        self._device = device

    def __call__(self, images: NDArray[np.float64]) -> Tensor:
        """Take images of shape (n, height, width, 3) in [0, 1] to (n, width of the transformer)."""
        x = torch.from_numpy(images).to(self._device, torch.float32).permute(0, 3, 1, 2)
        side, (height, width) = self._model.config.image_size, x.shape[-2:]
        size = [side * length // min(height, width) for length in (height, width)]
        x = interpolate(x, size=size, mode="bilinear", align_corners=False)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        outputs = self._model(pixel_values=(x - mean) / std, interpolate_pos_encoding=True)
        tokens: Tensor = outputs.last_hidden_state
        return tokens[:, 0]

    @cached_property
    def _model(self) -> Any:
        purpose = "subject-consistency by DINO"
        model = load_pretrained(
            "ViTModel", self._folder, purpose, use_safetensors=True, add_pooling_layer=False
        )
        return model.to(self._device, torch.float32).eval()
