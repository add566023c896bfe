"""Features of a DINO vision transformer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from otcache_diffusers.compat import load
from otcache_diffusers.metrics.local_files import loading, local_path
from otcache_diffusers.recording.quiet import quiet_loading

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
FILES = ("config.json", "model.safetensors")
ADVICE = (
    "give the folder of a DINO ViT as transformers' save_pretrained writes it, such as a copy of "
    "facebook/dino-vitb16."
)


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

    def __call__(self, pictures: NDArray[np.float64]) -> Tensor:
        """Shape (n, height, width, 3), range [0, 1], to (n, width of the transformer)."""
        x = torch.from_numpy(pictures).to(self._device, torch.float32).permute(0, 3, 1, 2)
        side, (height, width) = self._model.config.image_size, x.shape[-2:]
        size = [side * length // min(height, width) for length in (height, width)]
        x = interpolate(x, size=size, mode="bilinear", align_corners=False)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        found = self._model(pixel_values=(x - mean) / std, interpolate_pos_encoding=True)
        tokens: Tensor = found.last_hidden_state
        return tokens[:, 0]

    @cached_property
    def _model(self) -> Any:
        with quiet_loading("transformers"), loading(self._folder):
            kind = load("transformers:ViTModel", "subject-consistency by DINO")
            model: Any = kind.from_pretrained(
                self._folder, use_safetensors=True, local_files_only=True, add_pooling_layer=False
            )
        return model.to(self._device, torch.float32).eval()
