"""Pictures as CLIP's and BLIP's vision towers take them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(pictures: NDArray[np.floating], side: int, device: torch.device) -> Tensor:
    """The shorter side taken to ``side`` by an antialiased bicubic, the middle cut out, normalised.

    The authors' own code resizes 8-bit pictures and rounds; this one does not round, which moves a
    pixel by less than 1 / 255.

    References:
        Radford and others: Learning transferable visual models from natural language supervision,
        2021, https://arxiv.org/abs/2103.00020.

    Args:
        pictures: shape (n, height, width, 3), range [0, 1].
        side: pixels of the tower's input.
        device: where the tower runs.

    Returns:
        Shape (n, 3, side, side), float32.
    """
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device, torch.float32)
    x = x.permute(0, 3, 1, 2)
    height, width = x.shape[-2:]
    if min(height, width) != side:
        size = (side, side * width // height) if height <= width else (side * height // width, side)
        x = interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)
        x = x.clamp(0.0, 1.0)
    top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
    x = x[..., top : top + side, left : left + side]
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std
