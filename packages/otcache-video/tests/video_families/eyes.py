"""Encoders of a given image."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
)


def clip_vision(width: int) -> CLIPVisionModelWithProjection:
    """Sees 16 by 16 pixels as four patches."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        intermediate_size=16,
        patch_size=8,
    )
    return CLIPVisionModelWithProjection(config).eval()


def siglip(width: int) -> SiglipVisionModel:
    """Sees 16 by 16 pixels as four patches."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return SiglipVisionModel(config).eval()


class Pixels(dict[str, Any]):
    """A processor's answer: to be unpacked, sent to a device, or read by name."""

    @property
    def pixel_values(self) -> torch.Tensor:
        return self["pixel_values"]

    def to(self, *args: Any, **kwargs: Any) -> Pixels:
        return self


class Reader:
    """A processor that gives one image of noise, whatever it is shown: it needs no torchvision."""

    def __call__(self, *args: Any, **kwargs: Any) -> Pixels:
        seed = torch.Generator().manual_seed(3)
        return Pixels(pixel_values=torch.randn(1, 3, 16, 16, generator=seed))

    preprocess = __call__
