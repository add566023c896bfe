"""Components that several families share."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    """Standard normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ones(*shape: int) -> torch.Tensor:
    """A mask that hides nothing."""
    return torch.ones(*shape, dtype=torch.long)


def picture(size: int = 16) -> torch.Tensor:
    """A picture, shape (1, 3, size, size), in [0, 1]."""
    return noise(1, 3, size, size, seed=2).sigmoid()


def mask(size: int = 16) -> torch.Tensor:
    """The left half, shape (1, 1, size, size)."""
    half = torch.zeros(1, 1, size, size)
    half[..., : size // 2] = 1.0
    return half


def signed(**embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
    """Embeddings, and their negatives under the names of the negative prompt."""
    return embeddings | {f"negative_{name}": -value for name, value in embeddings.items()}


def both(**masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """Masks for the prompt and the negative prompt."""
    return masks | {f"negative_{name}": value for name, value in masks.items()}


def absent(*names: str) -> dict[str, None]:
    """Components left out."""
    return dict.fromkeys(names)


def vae(channels: int = 4, levels: int = 1, **config: Any) -> AutoencoderKL:
    """Downsamples by 2^(levels - 1)."""
    torch.manual_seed(0)
    return AutoencoderKL(  # type: ignore[no-untyped-call]  # theirs
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4,) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        sample_size=32,
        **{"shift_factor": 0.06, "scaling_factor": 1.5} | config,
    )


def qwen_vae() -> AutoencoderKLQwenImage:
    """Four channels, downsamples by 4."""
    torch.manual_seed(0)
    return AutoencoderKLQwenImage(  # type: ignore[no-untyped-call]  # theirs
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
