"""Flow-matching training of a small WanTransformer3DModel on cached latents and captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from demo_image.clock import Clock, cosine_with_warmup
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from .autoencoder import LATENT_CHANNELS, clip_batches, normalise
from .scenes import training_clips
from .text import MAX_TOKENS, WIDTH, new_encoder, new_tokenizer

BATCH = 32
DROP_CAPTION = 0.1
SHIFT = 3.0
"""Static shift of the scheduler's noise levels; training draws its levels about the same one."""
UNIFORM_SIGMAS = 0.15
"""Share of the noise levels drawn uniformly, so that both ends are seen."""
MATRIX_RATE, REST_RATE = 2e-3, 1e-3


def new_transformer(seed: int) -> WanTransformer3DModel:
    """Build the untrained transformer: 8 blocks of width 128, 180 tokens a clip."""
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=WIDTH // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=WIDTH,
        freq_dim=WIDTH,
        ffn_dim=3 * WIDTH,
        num_layers=8,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )


def new_pipeline(vae: AutoencoderKLWan, transformer: WanTransformer3DModel) -> WanPipeline:
    """Join the parts, with the tokenizer and the frozen text encoder made from a fixed seed."""
    tokenizer = new_tokenizer()
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=new_encoder(tokenizer, seed=1),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        transformer=transformer,
    )


@dataclass(frozen=True)
class Pool:
    """Training data: latents, and for each the row of its caption's embeddings.

    Row 0 of the embeddings belongs to the empty caption.
    """

    latents: Tensor
    caption_rows: Tensor
    prompt_embeds: Tensor


def build_pool(
    pipeline: WanPipeline, sprites: Mapping[str, Image.Image], folder: Path, count: int, seed: int
) -> Pool:
    """Encode `count` training clips and their captions; read them from `folder` if they exist."""
    path = folder / f"pool-{seed}-{count}.pt"
    if not path.exists():
        captions = [clip.caption for clip in islice(training_clips(seed), count)]
        unique = ["", *dict.fromkeys(captions)]
        row = {caption: index for index, caption in enumerate(unique)}
        state = {
            "latents": _encode_clips(pipeline.vae, sprites, count, seed),
            "caption_rows": torch.tensor([row[caption] for caption in captions]),
            "prompt_embeds": encode_captions(pipeline, unique).half(),
        }
        torch.save(state, path)
    return Pool(**torch.load(path, weights_only=True))


@torch.no_grad()
def encode_captions(pipeline: WanPipeline, captions: list[str]) -> Tensor:
    """Encode captions by the pipeline's own path, padding included, in batches of 512."""
    parts = [
        pipeline.encode_prompt(
            captions[start : start + 512],
            do_classifier_free_guidance=False,
            max_sequence_length=MAX_TOKENS,
        )[0]
        for start in range(0, len(captions), 512)
    ]
    return torch.cat(parts)


@torch.no_grad()
def _encode_clips(
    vae: AutoencoderKLWan, sprites: Mapping[str, Image.Image], count: int, seed: int
) -> Tensor:
    batches = clip_batches(islice(training_clips(seed), count), sprites, 16)
    return torch.cat(
        [
            normalise(vae, vae.encode(clips).latent_dist.mode()).half()
            for clips in tqdm(batches, desc="latents", total=math.ceil(count / 16))
        ]
    )


def draw_sigmas(count: int) -> Tensor:
    """Draw noise levels: logit-normal about the scheduler's shift, and some uniform ones."""
    sigmas = torch.sigmoid(torch.randn(count) + math.log(SHIFT))
    return torch.where(torch.rand(count) < UNIFORM_SIGMAS, torch.rand(count), sigmas)


def flow_loss(
    forward: Callable[..., tuple[Tensor, ...]], pool: Pool, rows: Tensor, sigmas: Tensor
) -> Tensor:
    """Return the mean of |v(x_s, s) - (noise - x_0)|^2 with x_s = (1 - s) x_0 + s noise."""
    clean = pool.latents[rows].float()
    noise = torch.randn_like(clean)
    level = sigmas[:, None, None, None, None]
    captions = pool.caption_rows[rows]
    captions = torch.where(torch.rand(len(rows)) < DROP_CAPTION, 0, captions)
    velocity = forward(
        hidden_states=(1.0 - level) * clean + level * noise,
        timestep=1000.0 * sigmas,
        encoder_hidden_states=pool.prompt_embeds[captions].float(),
        return_dict=False,
    )[0]
    return (velocity - (noise - clean)).square().mean()


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
                if self.step % 200 == 0 or self.clock.fraction >= 1.0:
                    self.save()
                on_step(self)

    def train_step(self) -> float:
        """Make one step of the optimisers and of the average; return the loss."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                factor = cosine_with_warmup(self.clock.fraction, self.step, 100)
                group["lr"] = group["peak"] * factor
        rows = torch.randint(len(self.pool.latents), (BATCH,))
        loss = flow_loss(self.model, self.pool, rows, draw_sigmas(BATCH))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.998, (1 + self.step) / (20 + self.step))
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
