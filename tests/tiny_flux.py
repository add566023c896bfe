"""A real diffusers pipeline from random components of a few thousand numbers, for tests across packages."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)

import otcache
from otcache_core import Provenance

N = 8


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_flux() -> FluxPipeline:
    """Make a pipeline with weights of its own."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=0,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
    )
    vae = AutoencoderKL(
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        shift_factor=0.1,
    )
    return quiet(
        FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=transformer,
        )
    )


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def twin_of(pipe: FluxPipeline) -> FluxPipeline:
    """Make a request-scoped pipeline over the same weights, with a scheduler of its own."""
    own = type(pipe.scheduler).from_config(pipe.scheduler.config)
    return quiet(FluxPipeline(**{**pipe.components, "scheduler": own}))


def sample(pipe: FluxPipeline, seed: int = 0, **more: Any) -> torch.Tensor:
    """Run the pipeline; its latents."""
    with torch.no_grad():
        made: torch.Tensor = pipe(
            prompt_embeds=noise(1, 4, 8),
            pooled_prompt_embeds=noise(1, 8),
            height=16,
            width=16,
            num_inference_steps=N,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **more,
        )[0]
    return made


def make_policy() -> otcache.Policy:
    """Make a policy of N steps that any model fits."""
    thin = otcache.Schedule(N, (0, N // 2))
    full = otcache.Schedule(N, tuple(range(0, N, 2)))
    return otcache.Policy(thin, full, Provenance(N))
