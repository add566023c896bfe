"""Training of the glyph reader's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_models.clock import cosine_with_warmup
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from otcache_diffusers.metrics.legible import CLASSES, LAYERS, scores

from .images import Pool, augment

CHANNELS, KERNELS = (3, 24, 48, 80, 96), (5, 3, 3, 3)
RATE, WARMUP, BATCH = 2e-3, 100, 64
SMOOTHING = 0.05


@dataclass(frozen=True)
class Plan:
    """How long to train, and the seed of weights, batches and distortions."""

    steps: int
    seed: int = 0


def new_weights(seed: int) -> dict[str, Tensor]:
    """Return untrained weights: normal kernels of variance 2 / fan-in, norms of 1, biases of 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(LAYERS):
        fan_in, out = CHANNELS[layer] * KERNELS[layer] ** 2, CHANNELS[layer + 1]
        shape = (out, CHANNELS[layer], KERNELS[layer], KERNELS[layer])
        weights[f"conv{layer}.weight"] = _normal(shape, math.sqrt(2 / fan_in), generator)
        weights[f"norm{layer}.weight"], weights[f"norm{layer}.bias"] = (
            torch.ones(out),
            torch.zeros(out),
        )
    size = CHANNELS[-1] * (64 >> LAYERS) ** 2
    weights["head.weight"] = _normal((len(CLASSES), size), 1 / math.sqrt(size), generator)
    weights["head.bias"] = torch.zeros(len(CLASSES))
    return weights


def _normal(shape: tuple[int, ...], spread: float, generator: torch.Generator) -> Tensor:
    return spread * torch.randn(shape, generator=generator)


def train(pool: Pool, plan: Plan) -> dict[str, Tensor]:
    """Minimise the cross entropy on distorted images of the pool."""
    weights = new_weights(plan.seed)
    optimizer = new_optimizer(weights)
    generator = torch.Generator().manual_seed(plan.seed + 1)
    with tqdm(range(plan.steps), desc="glyph reader", mininterval=5.0) as bar:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = RATE * cosine_with_warmup(step / plan.steps, step, WARMUP)
            rows = torch.randint(len(pool.labels), (BATCH,), generator=generator)
            images = augment(pool.images[rows].float() / 255, generator)
            loss = train_step(weights, optimizer, images, pool.labels[rows])
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    return {name: tensor.detach() for name, tensor in weights.items()}


def new_optimizer(weights: dict[str, Tensor]) -> torch.optim.Optimizer:
    """Return AdamW over the weights, whose gradients it switches on."""
    parameters = [tensor.requires_grad_() for tensor in weights.values()]
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)


def train_step(
    weights: dict[str, Tensor], optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> float:
    """Make one step on images in [0, 1]; return the loss before it."""
    loss = cross_entropy(scores(images, weights), labels, label_smoothing=SMOOTHING)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def save(weights: dict[str, Tensor], path: Path) -> None:
    """Write the weights in float16."""
    metadata = {"source": "tools/train_legibility.py", "licence": "Apache-2.0; see NOTICE"}
    halves = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(halves, path, metadata=metadata)
