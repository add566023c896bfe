"""The demo image model of otcache-diffusers: Flux on 64x64 pixels, latents of 4x16x16."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from torch import Tensor, nn

from . import scenes, text
from .prompts import make_prompts
from .sheet import enlarged, make_sheet
from .training import DemoModel, Plan, Sprites

LATENT_CHANNELS = 4
MAX_TOKENS = 24
EDGE_WEIGHT = 0.5
GRID = 16
"""Side of the latents; packed 2x2 they are 64 tokens."""
SIGMA_SHIFT = 0.5
"""The scheduler's mu at 64 tokens."""
GUIDANCE = 3.0
"""true_cfg_scale of the samples: stars and emoji come out sharper than without guidance."""
TITLES = {
    "heldout": "Prompts held out from calibration",
    "novel": "Novel: compositions never trained",
}


class ImageModel(DemoModel):
    """An autoencoder of 0.77 M parameters, and a transformer of 3 double and 6 single blocks."""

    scenes = scenes
    vae_plan, vae_rate, vae_beta = Plan(16, 100, 500), 2e-3, 0.98
    plan, decay, sheet_every = Plan(64, 150, 500), 0.999, 1000
    chunk, checked = 64, 512
    minutes, pool_size = (13.0, 75.0), 80_000
    sigma_shift, autocast = SIGMA_SHIFT, True

    def batches(
        self, scenes: Iterator[scenes.Scene], sprites: Sprites, batch: int
    ) -> Iterator[Tensor]:
        """Yield images of shape (batch, 3, 64, 64)."""
        return image_batches(scenes, sprites, batch)

    def new_autoencoder(self) -> AutoencoderKL:
        """Build the untrained autoencoder, downscale 4."""
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(24, 48, 64),
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=8,
            sample_size=64,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        )

    def reconstruction(self, vae: AutoencoderKL, batch: Tensor) -> tuple[Any, Tensor]:
        """Return the posterior, and mean |y - x| + EDGE_WEIGHT * mean |grad y - grad x|."""
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            output = vae.decode(posterior.sample()).sample
        output = output.float()
        loss = (output - batch).abs().mean()
        for dim in (2, 3):
            difference = output.diff(dim=dim) - batch.diff(dim=dim)
            loss = loss + 0.5 * EDGE_WEIGHT * difference.abs().mean()
        return posterior, loss

    @torch.no_grad()
    def set_scale(self, vae: AutoencoderKL, batch: Tensor, path: Path) -> None:
        """Set scaling_factor and shift_factor, measured once and kept at `path`.

        Latents less the shift, times the factor, have mean 0 and variance 1. Cached latents depend on
        both.
        """
        if not path.exists():
            latents = vae.encode(batch).latent_dist.sample()
            shift, spread = float(latents.mean()), float(latents.std())
            path.write_text(json.dumps({"factor": round(1 / spread, 4), "shift": round(shift, 4)}))
        scale = json.loads(path.read_text())
        vae.register_to_config(scaling_factor=scale["factor"], shift_factor=scale["shift"])

    def latents(self, vae: AutoencoderKL, batch: Tensor) -> Tensor:
        """Encode images to packed latents (b, 64, 16), as the pipeline does."""
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(batch).latent_dist.mode().float()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        return FluxPipeline._pack_latents(latents, len(latents), LATENT_CHANNELS, GRID, GRID)

    def new_transformer(self, seed: int) -> FluxTransformer2DModel:
        """Build the untrained transformer of width 128."""
        torch.manual_seed(seed)
        return FluxTransformer2DModel(
            in_channels=4 * LATENT_CHANNELS,
            num_layers=3,
            num_single_layers=6,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=text.WIDTH,
            pooled_projection_dim=text.WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(4, 14, 14),
        )

    def new_pipeline(self, vae: AutoencoderKL, transformer: nn.Module) -> FluxPipeline:
        """Join the parts, with tokenizers and frozen text encoders made from fixed seeds."""
        clip_tokenizer = text.new_clip_tokenizer(scenes.vocabulary(), MAX_TOKENS)
        t5_tokenizer = text.new_t5_tokenizer(scenes.vocabulary(), MAX_TOKENS)
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=SIGMA_SHIFT,
            max_shift=1.15,
            base_image_seq_len=64,
            max_image_seq_len=4096,
        )
        return FluxPipeline(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text.new_clip_encoder(clip_tokenizer, seed=1),
            tokenizer=clip_tokenizer,
            text_encoder_2=text.new_t5_encoder(t5_tokenizer, seed=2),
            tokenizer_2=t5_tokenizer,
            transformer=transformer,
        )

    def encode(self, pipeline: FluxPipeline, captions: list[str]) -> dict[str, Tensor]:
        """Encode captions by the pipeline's own path, padding included."""
        embeds, pooled, _ = pipeline.encode_prompt(captions, max_sequence_length=MAX_TOKENS)
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    def conditions(self, sigmas: Tensor, embeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the transformer's arguments beside the latents."""
        return {
            "timestep": sigmas,
            "encoder_hidden_states": embeds["prompt_embeds"],
            "pooled_projections": embeds["pooled_embeds"],
            "txt_ids": torch.zeros(MAX_TOKENS, 3),
            "img_ids": FluxPipeline._prepare_latent_image_ids(
                1, GRID // 2, GRID // 2, torch.device("cpu"), torch.float32
            ),
        }

    def draw_sheet(self, pipeline: FluxPipeline, path: Path, roles: tuple[str, ...]) -> None:
        """Write a sheet of the prompts of some lists, 30 steps each."""
        groups, prompts = [], make_prompts(scenes)
        for role in roles:
            captions = [prompt["text"] for prompt in prompts[role]]
            images = map(enlarged, sample(pipeline, captions))
            groups.append((TITLES[role], list(zip(captions, images, strict=True))))
        make_sheet(groups).quantize(192).save(path, optimize=True)


def image_batches(
    scenes_: Iterator[scenes.Scene], sprites: Sprites, batch: int
) -> Iterator[Tensor]:
    """Yield images of shape (batch, 3, 64, 64) with values in [-1, 1]."""
    while chunk := list(islice(scenes_, batch)):
        pixels = np.stack([np.asarray(scenes.render(scene, sprites)) for scene in chunk])
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def sample(
    pipeline: FluxPipeline, texts: Sequence[str], steps: int = 30, seed: int = 0
) -> list[Image.Image]:
    """Draw one image for each text; image k starts from the noise of seed + k."""
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(texts))]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        list(texts),
        height=scenes.SIDE,
        width=scenes.SIDE,
        num_inference_steps=steps,
        max_sequence_length=MAX_TOKENS,
        true_cfg_scale=GUIDANCE,
        negative_prompt=[""] * len(texts),
        generator=generators,
    ).images
