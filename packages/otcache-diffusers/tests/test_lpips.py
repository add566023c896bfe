"""LPIPS against its formula in plain numpy, and against the original project's two examples.

The example images belong to the original repository and are not shipped here: point
OTCACHE_LPIPS_EXAMPLES at its folder ``imgs`` to run that test.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import metric_kits
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save_file

from otcache_core import FileError, OtcacheError
from otcache_diffusers.metrics.backbones import AlexNet
from otcache_diffusers.metrics.lpips import Lpips, LpipsVgg

EXAMPLES = os.environ.get("OTCACHE_LPIPS_EXAMPLES")
PACKED = files("otcache_diffusers.metrics").joinpath("weights/lpips_alex.safetensors")


@pytest.mark.parametrize("shape", [(64, 64), (47, 35)])
def test_equals_the_formula(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 3, *shape, 3))
    weights = metric_kits.alex_weights()
    features = [[metric_kits.alex_features(p, weights) for p in stack] for stack in (x, y)]
    expected = [metric_kits.distance_on(a, b, weights) for a, b in zip(*features, strict=True)]
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
    assert "_weights" not in vars(AlexNet(torch.device("cpu")))


def test_vgg_weights_are_a_local_file(tmp_path: Path) -> None:
    with pytest.raises(OtcacheError, match=r"must be given as a local path, .*convert_lpips"):
        LpipsVgg()
    with pytest.raises(OtcacheError, match=r"must be a file, got '.*nowhere'.*convert_lpips"):
        LpipsVgg(tmp_path / "nowhere")
    x = np.zeros((1, 16, 16, 3))
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no tensors")
    with pytest.raises(FileError, match="not a safetensors file"):
        LpipsVgg(other)(x, x)
    save_file({"conv0.weight": np.zeros((1, 3, 3, 3))}, other)
    with pytest.raises(FileError, match=r"conv0 to conv12 .* conv0.bias"):
        LpipsVgg(other)(x, x)


@pytest.mark.skipif(EXAMPLES is None, reason="OTCACHE_LPIPS_EXAMPLES is not set")
@pytest.mark.parametrize(("image", "distance"), [("ex_p0.png", 0.7219), ("ex_p1.png", 0.1376)])
def test_reproduces_the_published_examples(image: str, distance: float) -> None:
    from PIL import Image

    folder = Path(str(EXAMPLES))
    x, y = (
        np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.float64)[None] / 255
        for name in (image, "ex_ref.png")
    )
    assert Lpips()(x, y) == pytest.approx([distance], abs=2e-4)
