"""Training of a demo model: an autoencoder, then flow matching on cached latents and captions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from .clock import Clock, cosine_with_warmup

KL_WEIGHT = 3e-4
DROP_CAPTION = 0.1
UNIFORM_SIGMAS = 0.15
"""Share of the noise levels drawn uniformly, so that both ends are seen."""
MATRIX_RATE, REST_RATE = 2e-3, 1e-3

Sprites = Mapping[str, Image.Image]
#: Training data: "latents", "caption_rows" (the row of each one's caption in the embeddings), and the
#: embeddings by name, whose row 0 belongs to the empty caption.
Pool = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """One training: samples a batch, steps of warm-up, and steps between two checkpoints."""

    batch: int
    warmup: int
    save_every: int


class DemoModel(ABC):
    """What the two demo models differ in.

    Attributes:
        scenes: `demo_models.scenes` or `demo_models.videos`.
        vae_plan, vae_rate, vae_beta: of the autoencoder's AdamW.
        plan, decay, sheet_every: of the transformer; `decay` is of its averaged weights.
        chunk: samples encoded at once.
        checked: unseen samples that the autoencoder is measured on.
        minutes: of the two trainings, by default.
        pool_size: training samples, by default.
        sigma_shift: mean of logit(sigma) in training.
        autocast: whether the transformer trains in bfloat16.
    """

    scenes: ModuleType
    vae_plan: Plan
    vae_rate: float
    vae_beta: float
    plan: Plan
    decay: float
    sheet_every: int
    chunk: int
    checked: int
    minutes: tuple[float, float]
    pool_size: int
    sigma_shift: float
    autocast: bool

    @abstractmethod
    def batches(self, scenes: Iterator[Any], sprites: Sprites, batch: int) -> Iterator[Tensor]:
        """Render scenes; yield batches of values in [-1, 1], channels first."""

    @abstractmethod
    def new_autoencoder(self) -> Any:
        """Build the untrained autoencoder."""

    @abstractmethod
    def reconstruction(self, vae: Any, batch: Tensor) -> tuple[Any, Tensor]:
        """Return the posterior, and the loss of its decoded sample."""

    @abstractmethod
    def set_scale(self, vae: Any, batch: Tensor, path: Path) -> None:
        """Measure mean and spread of the latents, and set them in the model's config."""

    @abstractmethod
    def latents(self, vae: Any, batch: Tensor) -> Tensor:
        """Encode a batch to normalised latents, as the transformer takes them."""

    @abstractmethod
    def new_transformer(self, seed: int) -> nn.Module:
        """Build the untrained transformer."""

    @abstractmethod
    def new_pipeline(self, vae: Any, transformer: nn.Module) -> Any:
        """Join the parts, with tokenizers and frozen text encoders made from fixed seeds."""

    @abstractmethod
    def encode(self, pipeline: Any, captions: list[str]) -> dict[str, Tensor]:
        """Encode captions by the pipeline's own path, padding included."""

    @abstractmethod
    def conditions(self, sigmas: Tensor, embeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the transformer's arguments beside the latents."""

    @abstractmethod
    def draw_sheet(self, pipeline: Any, path: Path, roles: tuple[str, ...]) -> None:
        """Write a sheet of the prompts of some lists, 30 steps each."""


def train_autoencoder(
    model: DemoModel, sprites: Sprites, path: Path, minutes: float, seed: int
) -> Any:
    """Train for `minutes`, keep a checkpoint at `path`, and resume from it if it exists."""
    torch.manual_seed(seed)
    vae, plan = model.new_autoencoder(), model.vae_plan
    betas = (0.9, model.vae_beta)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=model.vae_rate, betas=betas, weight_decay=1e-3
    )
    step, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    clock = Clock(60.0 * minutes, spent)
    batches = model.batches(model.scenes.training_scenes(seed + step), sprites, plan.batch)
    with tqdm(desc="autoencoder", initial=step, mininterval=5.0) as bar:
        while clock.fraction < 1.0:
            factor = cosine_with_warmup(clock.fraction, step, plan.warmup)
            for group in optimizer.param_groups:
                group["lr"] = model.vae_rate * factor
            loss = _autoencoder_step(model, vae, optimizer, next(batches))
            step += 1
            _show(bar, loss, clock)
            if step % plan.save_every == 0 or clock.fraction >= 1.0:
                state = {"model": vae.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "step": step, "spent": clock.spent_s}, path)
    return vae.eval()


def _autoencoder_step(
    model: DemoModel, vae: Any, optimizer: torch.optim.Optimizer, batch: Tensor
) -> float:
    posterior, loss = model.reconstruction(vae, batch)
    loss = loss + KL_WEIGHT * (posterior.kl().mean() / posterior.mean[0].numel())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _show(bar: tqdm, loss: float, clock: Clock) -> None:
    bar.update()
    bar.set_postfix(loss=f"{loss:.4f}", spent=f"{clock.fraction:.2f}", refresh=False)


@torch.no_grad()
def psnr(vae: Any, batch: Tensor) -> float:
    """Return the mean PSNR in dB of clamped reconstructions from the posterior's mean."""
    parts = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in batch.split(8)]
    errors = (torch.cat(parts).clamp(-1.0, 1.0) - batch).square().flatten(1).mean(dim=1) / 4.0
    return float((-10.0 * torch.log10(errors)).mean())


def build_pool(
    model: DemoModel, pipeline: Any, sprites: Sprites, folder: Path, count: int, seed: int
) -> Pool:
    """Encode `count` training scenes and their captions; read them from `folder` if they exist."""
    path = folder / f"pool-{seed}-{count}.pt"
    if not path.exists():
        scenes = list(islice(model.scenes.training_scenes(seed), count))
        unique = ["", *dict.fromkeys(scene.caption for scene in scenes)]
        row = {caption: index for index, caption in enumerate(unique)}
        batches = model.batches(iter(scenes), sprites, model.chunk)
        total = math.ceil(count / model.chunk)
        with torch.no_grad():
            parts = [
                model.latents(pipeline.vae, batch).half()
                for batch in tqdm(batches, desc="latents", total=total)
            ]
            embeds = [
                model.encode(pipeline, unique[at : at + 512]) for at in range(0, len(unique), 512)
            ]
        state = {name: torch.cat([part[name] for part in embeds]).half() for name in embeds[0]}
        state["caption_rows"] = torch.tensor([row[scene.caption] for scene in scenes])
        torch.save({**state, "latents": torch.cat(parts)}, path)
    return torch.load(path, weights_only=True)


def flow_loss(model: DemoModel, transformer: nn.Module, pool: Pool, rows: Tensor) -> Tensor:
    """Return the mean of |v(x_s, s) - (noise - x_0)|^2 with x_s = (1 - s) x_0 + s noise.

    The levels s are logit-normal about the scheduler's shift, and some uniform.
    """
    sigmas = torch.sigmoid(torch.randn(len(rows)) + model.sigma_shift)
    uniform = torch.rand(len(rows)) < UNIFORM_SIGMAS
    sigmas = torch.where(uniform, torch.rand(len(rows)), sigmas)
    clean = pool["latents"][rows].float()
    noise = torch.randn_like(clean)
    level = sigmas.view(-1, *[1] * (clean.ndim - 1))
    captions = pool["caption_rows"][rows]
    captions = torch.where(torch.rand(len(rows)) < DROP_CAPTION, 0, captions)
    embeds = {name: pool[name][captions].float() for name in pool if name.endswith("embeds")}
    velocity = transformer(
        hidden_states=(1.0 - level) * clean + level * noise,
        return_dict=False,
        **model.conditions(sigmas, embeds),
    )[0]
    return (velocity.float() - (noise - clean)).square().mean()


def new_optimizers(transformer: nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for modulation, embeddings and biases."""
    matrices, rest = [], []
    for name, parameter in transformer.named_parameters():
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

    def __init__(self, model: DemoModel, pool: Pool, path: Path, minutes: float, seed: int) -> None:
        self.model, self.pool, self.path = model, pool, path
        self.transformer, self.average = (model.new_transformer(seed) for _ in range(2))
        self.average.requires_grad_(False)
        self.optimizers = new_optimizers(self.transformer)
        self.step, spent, self.losses = 0, 0.0, [float("nan")]
        if path.exists():
            spent = self._resume()
        torch.manual_seed(seed + self.step)
        self.clock = Clock(60.0 * minutes, spent)

    def run(self, on_step: Callable[[int], None]) -> None:
        """Train until the clock runs out; call `on_step` with the number of steps after each."""
        with tqdm(desc="transformer", initial=self.step, mininterval=5.0) as bar:
            while self.clock.fraction < 1.0:
                self.losses = [*self.losses[-199:], self.train_step()]
                _show(bar, float(np.nanmean(self.losses)), self.clock)
                if self.step % self.model.plan.save_every == 0 or self.clock.fraction >= 1.0:
                    self.save()
                on_step(self.step)

    def train_step(self) -> float:
        """Make one step of the optimisers and of the average; return the loss."""
        plan = self.model.plan
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                factor = cosine_with_warmup(self.clock.fraction, self.step, plan.warmup)
                group["lr"] = group["peak"] * factor
        rows = torch.randint(len(self.pool["latents"]), (plan.batch,))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.model.autocast):
            loss = flow_loss(self.model, self.transformer, self.pool, rows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.model.decay, (1 + self.step) / (20 + self.step))
        averages, values = list(self.average.parameters()), list(self.transformer.parameters())
        torch._foreach_lerp_(averages, values, 1.0 - decay)

    def save(self) -> None:
        """Write the checkpoint, first beside the old one."""
        state = {
            "model": self.transformer.state_dict(),
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
        self.transformer.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.losses = state["step"], state["losses"]
        return float(state["spent"])
