"""Loaders that need torch: weights, moments and images of metrics, and pipelines' folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from fuzzing.loaders import Loader, one
from otcache.estimating import estimate
from otcache.pipelines import read_samples
from otcache_diffusers.metrics.backbones import BLOCKS, Vgg16
from otcache_diffusers.metrics.frechet import FeatureMoments
from otcache_diffusers.metrics.real_images import read_images

SHIPPED = Path(str(files("otcache_diffusers") / "demo_model" / "real_moments.safetensors"))
FLUX = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": 16,
    "axes_dims_rope": [4, 4, 8],
    "guidance_embeds": True,
    "in_channels": 4,
    "joint_attention_dim": 32,
    "num_attention_heads": 2,
    "num_layers": 1,
    "num_single_layers": 1,
    "patch_size": 1,
    "pooled_projection_dim": 32,
}


def use_moments(path: Path) -> None:
    """As the Fréchet distance uses them."""
    made = FeatureMoments.load(path)
    assert np.isfinite(made.directions @ np.sqrt(made.variances)).all()
    assert min(made.size) >= 1


def make_images(folder: Path) -> list[Path]:
    """Return a folder of images, an array of them, one in an archive, and a list that names one."""
    stack = np.full((2, 4, 4, 3), 128, np.uint8)
    Image.fromarray(stack[0]).save(folder / "a.png")
    Image.fromarray(stack[1]).save(folder / "b.jpg")
    np.save(folder / "stack.npy", stack)
    np.savez_compressed(folder / "stack.npz", stack)
    row = {"prompt": "a", "image": "a.png"}
    (folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return sorted(folder.iterdir())


def use_images(path: Path) -> None:
    """Each as a metric reads it."""
    other = path.suffix in (".npy", ".npz")
    for batch in () if path.suffix == ".jsonl" else read_images(path if other else path.parent):
        assert batch.shape[-1] == 3
    read_samples(path.with_name("rows.jsonl"))


def weights(path: Path) -> None:
    """Return a network of the right form and no size."""
    arrays, width, layer = {}, 3, 0
    for block, convolutions in enumerate(BLOCKS):
        for _ in range(convolutions):
            arrays[f"conv{layer}.weight"] = np.ones((2, width, 3, 3), np.float32)
            arrays[f"conv{layer}.bias"] = np.ones(2, np.float32)
            width, layer = 2, layer + 1
        arrays[f"head{block}.weight"] = np.ones((1, 2, 1, 1), np.float32)
    save_file(arrays, path)


def use_weights(path: Path) -> None:
    """Look at an image."""
    network = Vgg16(path, torch.device("cpu"))
    for block, features in enumerate(network.features(np.zeros((1, 16, 16, 3)))):
        assert features.shape[1] == network.head(block).shape[1]


def make_flux(folder: Path) -> list[Path]:
    """Return the configuration of a small FLUX."""
    (folder / "transformer").mkdir()
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(FLUX), encoding="utf-8")
    return [path]


def use_flux(path: Path) -> None:
    """Count its operations, on no memory."""
    estimate(str(path.parents[1]), height=64, width=64)


def measure_loaders() -> Iterator[Loader]:
    """Those of metrics and of a real model class."""
    shipped = one("m.safetensors", lambda p: p.write_bytes(SHIPPED.read_bytes()))
    yield Loader("moments", shipped, use_moments, 4)
    yield Loader("real images", make_images, use_images, 4)
    yield Loader("weights", one("w.safetensors", weights), use_weights, 3)
    yield Loader("FLUX configuration", make_flux, use_flux, 0.5)
