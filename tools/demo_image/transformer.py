"""Flow-matching training of a small FluxTransformer2DModel on cached latents and captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

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
from tqdm import tqdm

from .autoencoder import LATENT_CHANNELS, picture_batches
from .clock import Clock, cosine_with_warmup
from .scenes import training_scenes
from .text import (
    MAX_TOKENS,
    WIDTH,
    new_clip_encoder,
    new_clip_tokenizer,
    new_t5_encoder,
    new_t5_tokenizer,
)

GRID = 16
"""Side of the latents; packed 2x2 they are 64 tokens."""
BATCH = 64
DROP_CAPTION = 0.1
SIGMA_SHIFT = 0.5
"""Mean of logit(sigma) in training: the scheduler's mu at 64 tokens."""
UNIFORM_SIGMAS = 0.15
"""Share of the noise levels drawn uniformly, so that both ends are seen."""
MATRIX_RATE, REST_RATE = 2e-3, 1e-3


def new_transformer(seed: int) -> FluxTransformer2DModel:
    """Build the untrained transformer: 3 double and 6 single blocks of width 128."""
    torch.manual_seed(seed)
    return FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(4, 14, 14),
    )


def new_pipeline(vae: AutoencoderKL, transformer: FluxTransformer2DModel) -> FluxPipeline:
    """Join the parts, with the tokenizers and the frozen text encoders made from fixed seeds."""
    clip_tokenizer, t5_tokenizer = new_clip_tokenizer(), new_t5_tokenizer()
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
        text_encoder=new_clip_encoder(clip_tokenizer, seed=1),
        tokenizer=clip_tokenizer,
        text_encoder_2=new_t5_encoder(t5_tokenizer, seed=2),
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )


@dataclass(frozen=True)
class Pool:
    """Training data: packed latents, and for each the row of its caption's embeddings.

    Row 0 of the embeddings belongs to the empty caption.
    """

    latents: Tensor
    caption_rows: Tensor
    prompt_embeds: Tensor
    pooled_embeds: Tensor


def build_pool(
    pipeline: FluxPipeline, sprites: Mapping[str, Image.Image], folder: Path, count: int, seed: int
) -> Pool:
    """Encode `count` training scenes and their captions; read them from `folder` if they exist."""
    path = folder / f"pool-{seed}-{count}.pt"
    if not path.exists():
        captions = [scene.caption for scene in islice(training_scenes(seed), count)]
        unique = ["", *dict.fromkeys(captions)]
        row = {caption: index for index, caption in enumerate(unique)}
        prompt_embeds, pooled_embeds = encode_captions(pipeline, unique)
        state = {
            "latents": _encode_pictures(pipeline.vae, sprites, count, seed),
            "caption_rows": torch.tensor([row[caption] for caption in captions]),
            "prompt_embeds": prompt_embeds.half(),
            "pooled_embeds": pooled_embeds.half(),
        }
        torch.save(state, path)
    return Pool(**torch.load(path, weights_only=True))


@torch.no_grad()
def encode_captions(pipeline: FluxPipeline, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Encode captions by the pipeline's own path, padding included, in batches of 512."""
    parts = [
        pipeline.encode_prompt(captions[start : start + 512], max_sequence_length=MAX_TOKENS)[:2]
        for start in range(0, len(captions), 512)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


@torch.no_grad()
def _encode_pictures(
    vae: AutoencoderKL, sprites: Mapping[str, Image.Image], count: int, seed: int
) -> Tensor:
    batches = picture_batches(islice(training_scenes(seed), count), sprites, 64)
    parts = []
    for pictures in tqdm(batches, desc="latents", total=math.ceil(count / 64)):
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(pictures).latent_dist.mode().float()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        parts.append(pack(latents).half())
    return torch.cat(parts)


def pack(latents: Tensor) -> Tensor:
    """Pack latents (b, 4, 16, 16) to tokens (b, 64, 16), as the pipeline does."""
    return FluxPipeline._pack_latents(latents, len(latents), LATENT_CHANNELS, GRID, GRID)


def draw_sigmas(count: int) -> Tensor:
    """Draw noise levels: logit-normal about the scheduler's shift, and some uniform ones."""
    sigmas = torch.sigmoid(torch.randn(count) + SIGMA_SHIFT)
    return torch.where(torch.rand(count) < UNIFORM_SIGMAS, torch.rand(count), sigmas)


def flow_loss(
    forward: Callable[..., tuple[Tensor, ...]], pool: Pool, rows: Tensor, sigmas: Tensor
) -> Tensor:
    """Return the mean of |v(x_s, s) - (noise - x_0)|^2 with x_s = (1 - s) x_0 + s noise."""
    clean = pool.latents[rows].float()
    noise = torch.randn_like(clean)
    level = sigmas[:, None, None]
    captions = pool.caption_rows[rows]
    captions = torch.where(torch.rand(len(rows)) < DROP_CAPTION, 0, captions)
    image_ids = FluxPipeline._prepare_latent_image_ids(
        1, GRID // 2, GRID // 2, torch.device("cpu"), torch.float32
    )
    velocity = forward(
        hidden_states=(1.0 - level) * clean + level * noise,
        timestep=sigmas,
        encoder_hidden_states=pool.prompt_embeds[captions].float(),
        pooled_projections=pool.pooled_embeds[captions].float(),
        txt_ids=torch.zeros(MAX_TOKENS, 3),
        img_ids=image_ids,
        return_dict=False,
    )[0]
    return (velocity.float() - (noise - clean)).square().mean()


def new_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for modulation, embeddings and biases."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "blocks" in name and "norm" not in name
        (matrices if is_matrix else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=REST_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adamw]


class Trainer:
    """Transformer, its averaged copy, optimisers and clock, saved and resumed together."""

    def __init__(self, pool: Pool, path: Path, minutes: float, seed: int) -> None:
        self.pool, self.path = pool, path
        self.model, self.average = new_transformer(seed), new_transformer(seed)
        self.average.requires_grad_(False)
        self.optimizers = new_optimizers(self.model)
        self.step, spent, self.losses = 0, 0.0, [float("nan")]
        if path.exists():
            spent = self._resume()
        torch.manual_seed(seed + self.step)
        self.clock = Clock(60.0 * minutes, spent)
        self.forward: Callable[..., tuple[Tensor, ...]] = self.model

    def run(self, on_step: Callable[[Trainer], None]) -> None:
        """Train until the clock runs out; call `on_step` after each step."""
        with tqdm(desc="transformer", initial=self.step, mininterval=5.0) as bar:
            while self.clock.fraction < 1.0:
                self.losses = [*self.losses[-199:], self.train_step()]
                bar.update()
                loss = float(np.nanmean(self.losses))
                bar.set_postfix(
                    loss=f"{loss:.4f}", spent=f"{self.clock.fraction:.2f}", refresh=False
                )
                if self.step % 500 == 0 or self.clock.fraction >= 1.0:
                    self.save()
                on_step(self)

    def train_step(self) -> float:
        """Make one step of the optimisers and of the average; return the loss."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                factor = cosine_with_warmup(self.clock.fraction, self.step, 150)
                group["lr"] = group["peak"] * factor
        rows = torch.randint(len(self.pool.latents), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow_loss(self.forward, self.pool, rows, draw_sigmas(BATCH))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.999, (1 + self.step) / (20 + self.step))
        averages, values = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(averages, values, 1.0 - decay)

    def save(self) -> None:
        """Write the checkpoint, first beside the old one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "spent": self.clock.spent_s,
            "losses": self.losses,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def _resume(self) -> float:
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.losses = state["step"], state["losses"]
        return float(state["spent"])
