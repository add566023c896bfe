"""A small AutoencoderKLWan: 9 frames of 48x48 pixels to latents of 16x5x12x12."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from demo_image.clock import Clock, cosine_with_warmup
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .scenes import Clip, render, training_clips

LATENT_CHANNELS = 16
PATCH = 2
BATCH = 4
RATE = 1.5e-3
KL_WEIGHT = 3e-4
EDGE_WEIGHT = 0.5
OBJECT_WEIGHT = 6.0
"""How much more a pixel of an object counts than one of the plain background."""


def new_autoencoder() -> AutoencoderKLWan:
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


def clip_batches(
    clips: Iterator[Clip], sprites: Mapping[str, Image.Image], batch: int
) -> Iterator[Tensor]:
    """Yield clips of shape (batch, 3, 9, 48, 48) with values in [-1, 1]."""
    while chunk := list(islice(clips, batch)):
        pixels = np.stack([render(clip, sprites) for clip in chunk])
        yield torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return mean w |y - x| + EDGE_WEIGHT * mean w |grad y - grad x|, with finite differences.

    w is `OBJECT_WEIGHT` where the target is not of its corner's colour and 1 elsewhere, over its mean.
    """
    corner = target[..., :1, :1]
    seen = (target - corner).abs().amax(1, keepdim=True) > 0.05
    weight = torch.where(seen, OBJECT_WEIGHT, 1.0)
    weight = weight / weight.mean()
    loss = (weight * (output - target).abs()).mean()
    for dim in (3, 4):
        difference = (output.diff(dim=dim) - target.diff(dim=dim)).abs()
        near = weight.narrow(dim, 1, weight.shape[dim] - 1)
        loss = loss + 0.5 * EDGE_WEIGHT * (near * difference).mean()
    return loss


def train_autoencoder(
    sprites: Mapping[str, Image.Image], path: Path, minutes: float, seed: int
) -> AutoencoderKLWan:
    """Train for `minutes`, keep a checkpoint at `path`, and go on from one that is there."""
    torch.manual_seed(seed)
    model = new_autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=1e-3)
    step, spent = _resume(path, model, optimizer)
    clock = Clock(60.0 * minutes, spent)
    batches = clip_batches(training_clips(seed + step), sprites, BATCH)
    with tqdm(desc="autoencoder", initial=step, mininterval=5.0) as bar:
        while clock.fraction < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = RATE * cosine_with_warmup(clock.fraction, step, 50)
            loss = _step(model, optimizer, next(batches))
            step += 1
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}", spent=f"{clock.fraction:.2f}", refresh=False)
            if step % 200 == 0 or clock.fraction >= 1.0:
                _save(path, model, optimizer, step, clock.spent_s)
    return model.eval()


def decode_unclamped(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode as `AutoencoderKLWan.decode` does, without its clamp to [-1, 1].

    The clamp has no gradient where the output is out of range, so training must go round it.
    """
    model.clear_cache()
    hidden = model.post_quant_conv(latents)
    parts = []
    for index in range(hidden.shape[2]):
        model._conv_idx = [0]
        parts.append(
            model.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=model._feat_map,
                feat_idx=model._conv_idx,
                first_chunk=index == 0,
            )
        )
    model.clear_cache()
    return unpatchify(torch.cat(parts, 2), PATCH)


def _step(model: AutoencoderKLWan, optimizer: torch.optim.Optimizer, clips: Tensor) -> float:
    posterior = model.encode(clips).latent_dist
    output = decode_unclamped(model, posterior.sample())
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = reconstruction_loss(output, clips) + KL_WEIGHT * kl
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _save(
    path: Path, model: AutoencoderKLWan, optimizer: torch.optim.Optimizer, step: int, spent: float
) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "spent": spent}, path)


def _resume(
    path: Path, model: AutoencoderKLWan, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["spent"]


@torch.no_grad()
def psnr(model: AutoencoderKLWan, clips: Tensor) -> float:
    """Return the mean PSNR in dB of reconstructions from the posterior's mean."""
    output = torch.cat(
        [model.decode(model.encode(part).latent_dist.mode()).sample for part in clips.split(8)]
    )
    errors = (output - clips).square().mean(dim=(1, 2, 3, 4)) / 4.0
    return float((-10.0 * torch.log10(errors)).mean())


@torch.no_grad()
def set_scale(model: AutoencoderKLWan, clips: Tensor) -> None:
    """Set latents_mean and latents_std of the model's config, channel by channel.

    They are measured on the posterior's means; latents less the mean, over the spread, have mean 0
    and variance 1.
    """
    latents = torch.cat([model.encode(part).latent_dist.mode() for part in clips.split(8)])
    model.register_to_config(
        latents_mean=[round(value, 4) for value in latents.mean(dim=(0, 2, 3, 4)).tolist()],
        latents_std=[round(value, 4) for value in latents.std(dim=(0, 2, 3, 4)).tolist()],
    )


def normalise(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return (latents - mean) / std, the inverse of what WanPipeline does before decoding."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (model.config.latents_mean, model.config.latents_std)
    )
    return (latents - mean) / std
