"""A small AutoencoderKL: 64x64 pictures to latents of 4x16x16, trained on rendered scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .clock import Clock, cosine_with_warmup
from .scenes import Scene, render, training_scenes

LATENT_CHANNELS = 4
KL_WEIGHT = 3e-4
EDGE_WEIGHT = 0.5


def new_autoencoder() -> AutoencoderKL:
    """Build the untrained autoencoder (0.77 M parameters, downscale 4)."""
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


def picture_batches(
    scenes: Iterator[Scene], sprites: Mapping[str, Image.Image], batch: int
) -> Iterator[Tensor]:
    """Yield pictures of shape (batch, 3, 64, 64) with values in [-1, 1]."""
    while chunk := list(islice(scenes, batch)):
        pixels = np.stack([np.asarray(render(scene, sprites)) for scene in chunk])
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return mean |y - x| + EDGE_WEIGHT * mean |grad y - grad x|, with finite differences."""
    loss = (output - target).abs().mean()
    for dim in (2, 3):
        difference = output.diff(dim=dim) - target.diff(dim=dim)
        loss = loss + 0.5 * EDGE_WEIGHT * difference.abs().mean()
    return loss


def train_autoencoder(
    sprites: Mapping[str, Image.Image], path: Path, minutes: float, seed: int
) -> AutoencoderKL:
    """Train for `minutes`, keep a checkpoint at `path`, and go on from one that is there."""
    torch.manual_seed(seed)
    model = new_autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-3)
    step, spent = _resume(path, model, optimizer)
    clock = Clock(60.0 * minutes, spent)
    batches = picture_batches(training_scenes(seed + step), sprites, 16)
    with tqdm(desc="autoencoder", initial=step) as bar:
        while clock.fraction < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * cosine_with_warmup(clock.fraction, step, 100)
            loss = _step(model, optimizer, next(batches))
            step += 1
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}", spent=f"{clock.fraction:.2f}", refresh=False)
            if step % 500 == 0 or clock.fraction >= 1.0:
                _save(path, model, optimizer, step, clock.spent_s)
    return model.eval()


def _step(model: AutoencoderKL, optimizer: torch.optim.Optimizer, pictures: Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(pictures).latent_dist
        output = model.decode(posterior.sample()).sample
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = reconstruction_loss(output.float(), pictures) + KL_WEIGHT * kl
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _save(
    path: Path, model: AutoencoderKL, optimizer: torch.optim.Optimizer, step: int, spent: float
) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "spent": spent}, path)


def _resume(
    path: Path, model: AutoencoderKL, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["spent"]


@torch.no_grad()
def psnr(model: AutoencoderKL, pictures: Tensor) -> float:
    """Return the mean PSNR in dB of clamped reconstructions from the posterior's mean."""
    output = model.decode(model.encode(pictures).latent_dist.mode()).sample.clamp(-1.0, 1.0)
    errors = (output - pictures).square().mean(dim=(1, 2, 3)) / 4.0
    return float((-10.0 * torch.log10(errors)).mean())


@torch.no_grad()
def set_scale(model: AutoencoderKL, pictures: Tensor, path: Path) -> tuple[float, float]:
    """Set scaling_factor and shift_factor in the model's config, and return them.

    Latents less the shift, times the factor, have mean 0 and variance 1. Both are measured once, on
    the posterior's samples, and kept at `path`: cached latents depend on them.
    """
    if not path.exists():
        latents = model.encode(pictures).latent_dist.sample()
        shift, spread = float(latents.mean()), float(latents.std())
        path.write_text(json.dumps({"factor": round(1 / spread, 4), "shift": round(shift, 4)}))
    scale = json.loads(path.read_text())
    model.register_to_config(scaling_factor=scale["factor"], shift_factor=scale["shift"])
    return scale["factor"], scale["shift"]
