"""The demo video model of otcache-video: Wan on 9 frames of 48x48 pixels, latents of 16x5x12x12."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor, nn

from . import text, videos
from .image_model import EDGE_WEIGHT, TITLES
from .prompts import make_prompts
from .sheet import STRIPS, make_sheet, strip
from .training import DemoModel, Plan, Sprites

LATENT_CHANNELS = 16
MAX_TOKENS = 20
"""The longest caption has 16 words, and one end-of-text token."""
PATCH = 2
OBJECT_WEIGHT = 6.0
"""How much more a pixel of an object counts than one of the plain background."""
SHIFT = 3.0
"""Static shift of the scheduler's noise levels; training draws its levels about the same one."""


class VideoModel(DemoModel):
    """An autoencoder that halves sides twice and time once, and a transformer of 8 blocks."""

    scenes = videos
    vae_plan, vae_rate, vae_beta = Plan(4, 50, 200), 1.5e-3, 0.95
    plan, decay, sheet_every = Plan(32, 100, 200), 0.998, 500
    chunk, checked = 16, 96
    minutes, pool_size = (22.0, 50.0), 8_000
    sigma_shift, autocast = math.log(SHIFT), False

    def batches(
        self, scenes: Iterator[videos.Video], sprites: Sprites, batch: int
    ) -> Iterator[Tensor]:
        """Yield videos of shape (batch, 3, 9, 48, 48)."""
        while chunk := list(islice(scenes, batch)):
            pixels = np.stack([videos.render(video, sprites) for video in chunk])
            yield torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0

    def new_autoencoder(self) -> AutoencoderKLWan:
        """Build the untrained autoencoder: pixels in 2x2 patches, then half the side and the time."""
        return AutoencoderKLWan(
            base_dim=24,
            z_dim=LATENT_CHANNELS,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.0] * LATENT_CHANNELS,
            latents_std=[1.0] * LATENT_CHANNELS,
            in_channels=12,
            out_channels=12,
            patch_size=PATCH,
            scale_factor_temporal=2,
            scale_factor_spatial=4,
        )

    def reconstruction(self, vae: AutoencoderKLWan, batch: Tensor) -> tuple[Any, Tensor]:
        """Return the posterior, and mean w |y - x| + EDGE_WEIGHT * mean w |grad y - grad x|.

        w is OBJECT_WEIGHT where the target differs from its corner's colour and 1 elsewhere, over its
        mean.
        """
        posterior = vae.encode(batch).latent_dist
        output = decode_unclamped(vae, posterior.sample())
        seen = (batch - batch[..., :1, :1]).abs().amax(1, keepdim=True) > 0.05
        weight = torch.where(seen, OBJECT_WEIGHT, 1.0)
        weight = weight / weight.mean()
        loss = (weight * (output - batch).abs()).mean()
        for dim in (3, 4):
            difference = (output.diff(dim=dim) - batch.diff(dim=dim)).abs()
            near = weight.narrow(dim, 1, weight.shape[dim] - 1)
            loss = loss + 0.5 * EDGE_WEIGHT * (near * difference).mean()
        return posterior, loss

    @torch.no_grad()
    def set_scale(self, vae: AutoencoderKLWan, batch: Tensor, path: Path) -> None:
        """Set latents_mean and latents_std, channel by channel, from the posterior's means."""
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in batch.split(8)])
        vae.register_to_config(
            latents_mean=[round(value, 4) for value in latents.mean(dim=(0, 2, 3, 4)).tolist()],
            latents_std=[round(value, 4) for value in latents.std(dim=(0, 2, 3, 4)).tolist()],
        )

    def latents(self, vae: AutoencoderKLWan, batch: Tensor) -> Tensor:
        """Return (latents - mean) / std, the inverse of what WanPipeline does before decoding."""
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return (vae.encode(batch).latent_dist.mode() - mean) / std

    def new_transformer(self, seed: int) -> WanTransformer3DModel:
        """Build the untrained transformer of width 128; a video has 180 tokens."""
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=text.WIDTH // 4,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            text_dim=text.WIDTH,
            freq_dim=text.WIDTH,
            ffn_dim=3 * text.WIDTH,
            num_layers=8,
            cross_attn_norm=True,
            rope_max_seq_len=32,
        )

    def new_pipeline(self, vae: AutoencoderKLWan, transformer: nn.Module) -> WanPipeline:
        """Join the parts, with the tokenizer and the frozen text encoder made from a fixed seed."""
        tokenizer = text.new_t5_tokenizer(videos.vocabulary(), MAX_TOKENS)
        return WanPipeline(
            tokenizer=tokenizer,
            text_encoder=text.new_t5_encoder(tokenizer, seed=1, umt5=True),
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
            transformer=transformer,
        )

    def encode(self, pipeline: WanPipeline, captions: list[str]) -> dict[str, Tensor]:
        """Encode captions by the pipeline's own path, padding included."""
        embeds, _ = pipeline.encode_prompt(
            captions, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
        )
        return {"prompt_embeds": embeds}

    def conditions(self, sigmas: Tensor, embeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the transformer's arguments beside the latents."""
        return {"timestep": 1000.0 * sigmas, "encoder_hidden_states": embeds["prompt_embeds"]}

    def draw_sheet(self, pipeline: WanPipeline, path: Path, roles: tuple[str, ...]) -> None:
        """Write a sheet of the prompts of some lists, 30 steps each; video k has the noise of seed k."""
        groups, prompts = [], make_prompts(videos)
        pipeline.set_progress_bar_config(disable=True)
        for role in roles:
            captions = [prompt["text"] for prompt in prompts[role]]
            made = pipeline(
                captions,
                negative_prompt=[""] * len(captions),
                height=videos.SIDE,
                width=videos.SIDE,
                num_frames=videos.FRAMES,
                num_inference_steps=30,
                max_sequence_length=MAX_TOKENS,
                guidance_scale=1.0,
                generator=[torch.Generator().manual_seed(seed) for seed in range(len(captions))],
            ).frames
            strips = map(strip, made)
            groups.append((TITLES[role], list(zip(captions, strips, strict=True))))
        make_sheet(groups, STRIPS).quantize(192).save(path, optimize=True)


def decode_unclamped(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode as `AutoencoderKLWan.decode` does, without its clamp to [-1, 1].

    The clamp has no gradient where the output is out of range, so training must avoid it.
    """
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    parts = []
    for index in range(hidden.shape[2]):
        vae._conv_idx = [0]
        parts.append(
            vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )
        )
    vae.clear_cache()
    return unpatchify(torch.cat(parts, 2), PATCH)
