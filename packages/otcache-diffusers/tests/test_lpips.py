"""LPIPS against its formula in plain numpy, and against the original project's two examples.

The example pictures belong to the original repository and are not shipped here: point
OTCACHE_LPIPS_EXAMPLES at its folder ``imgs`` to run that test.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors.numpy import load

from otcache_diffusers.metrics.lpips import Lpips

Array = NDArray[np.float64]
EXAMPLES = os.environ.get("OTCACHE_LPIPS_EXAMPLES")
PACKED = files("otcache_diffusers.metrics").joinpath("weights/lpips_alex.safetensors")


def convolve(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    """Picture (H, W, C) with kernel (out, C, k, k)."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    k = weight.shape[-1]
    patches = sliding_window_view(x, (k, k), axis=(0, 1))[::stride, ::stride]
    out: Array = np.einsum("hwckl,ockl->hwo", patches, weight, optimize=True) + bias
    return out


def features(picture: Array, weights: dict[str, Array]) -> list[Array]:
    x = (2 * picture - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    layers = []
    for layer in range(5):
        if layer in (1, 2):
            x = sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(-1, -2))
        stride, padding = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))[layer]
        kernel, bias = weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"]
        x = np.maximum(convolve(x, kernel, bias, stride, padding), 0)
        layers.append(x)
    return layers


def by_hand(x: Array, y: Array) -> float:
    weights = {k: v.astype(np.float64) for k, v in load(PACKED.read_bytes()).items()}
    total = 0.0
    pairs = zip(features(x, weights), features(y, weights), strict=True)
    for layer, (a, b) in enumerate(pairs):
        a, b = (f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in (a, b))
        total += float((((a - b) ** 2) @ weights[f"head{layer}.weight"].ravel()).mean())
    return total


@pytest.mark.parametrize("shape", [(64, 64), (47, 35)])
def test_equals_the_formula(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 3, *shape, 3))
    expected = [by_hand(a, b) for a, b in zip(x, y, strict=True)]
    assert Lpips()(x, y) == pytest.approx(expected, rel=1e-4)


def test_batches_do_not_matter() -> None:
    x, y = np.random.default_rng(0).random((2, 5, 32, 32, 3))
    assert Lpips(batch=2)(x, y) == pytest.approx(Lpips()(x, y), rel=1e-5)


def test_runs_in_float32_whatever_comes_in() -> None:
    x, y = np.random.default_rng(0).random((2, 2, 32, 32, 3)).astype(np.float16)
    assert Lpips()(x, y) == pytest.approx(Lpips()(x.astype(np.float64), y.astype(np.float64)))


def test_weights_are_small_and_complete() -> None:
    packed = PACKED.read_bytes()
    assert len(packed) <= 5_000_000
    assert len(load(packed)) == 15
    assert all(w.dtype == np.float16 for w in load(packed).values())


def test_weights_are_read_on_the_first_call() -> None:
    assert "_weights" not in vars(Lpips())


@pytest.mark.skipif(EXAMPLES is None, reason="OTCACHE_LPIPS_EXAMPLES is not set")
@pytest.mark.parametrize(("picture", "distance"), [("ex_p0.png", 0.7219), ("ex_p1.png", 0.1376)])
def test_reproduces_the_published_examples(picture: str, distance: float) -> None:
    from PIL import Image

    folder = Path(str(EXAMPLES))
    x, y = (
        np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.float64)[None] / 255
        for name in (picture, "ex_ref.png")
    )
    assert Lpips()(x, y) == pytest.approx([distance], abs=2e-4)
