"""A conformance kit for every metric that is offered, each with an answer derived elsewhere."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_scorers
from legible_kit import LegibleKit
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from otcache_core.contracts import PromptMetric, QualityMetric, SetMetric
from otcache_core.testing import (
    ExpectedValues,
    MetricConformance,
    PromptMetricConformance,
    SetMetricConformance,
)
from otcache_core.testing.metric_checks import waves
from otcache_diffusers.metrics.clip_score import ClipScore
from otcache_diffusers.metrics.frechet import Frechet
from otcache_diffusers.metrics.image_reward import ImageReward
from otcache_diffusers.metrics.lpips import Lpips, LpipsVgg
from otcache_diffusers.metrics.pairwise import HaarPsi, MsSsim, Psnr, Rmse, Ssim
from otcache_diffusers.recording.sampler import quiet_loading

Array = NDArray[np.float64]
VGG_BLOCKS = (2, 2, 3, 3, 3)


# -- images --------------------------------------------------------------------------------------


def golden_pair(side: int) -> tuple[Array, Array]:
    """Two coloured pairs of waves that reach 0 and 1, for values that other code computed."""
    ranges = (np.arange(n) for n in (2, side, side, 3))
    p, h, w, c = np.meshgrid(*ranges, indexing="ij")
    phase = 0.37 * h + 0.23 * (c + 1) * w + p
    return 0.5 + 0.5 * np.sin(phase + 0.3 * (p + 1) * (c + 1)), 0.5 + 0.5 * np.sin(phase)


def flat_pair(size: int = 64) -> tuple[Array, Array]:
    """Two pairs of flat coloured images."""
    colours = np.array([[[0.9, 0.5, 0.2], [0.6, 0.5, 0.1]], [[1.0, 0.0, 0.4], [0.2, 0.3, 0.4]]])
    x, y = (np.broadcast_to(colours[:, k, None, None], (2, size, size, 3)).copy() for k in (0, 1))
    return x, y


# -- networks in plain numpy -----------------------------------------------------------------------


def convolve(x: Array, weight: Array, bias: Array, stride: int = 1, padding: int = 1) -> Array:
    """Image (H, W, C) with kernel (out, C, k, k)."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    k = weight.shape[-1]
    patches = sliding_window_view(x, (k, k), axis=(0, 1))[::stride, ::stride]
    out: Array = np.einsum("hwckl,ockl->hwo", patches, weight, optimize=True) + bias
    return out


def pool(x: Array, size: int) -> Array:
    """Largest of size by size, every second one."""
    pooled: Array = sliding_window_view(x, (size, size), axis=(0, 1))[::2, ::2].max(axis=(-1, -2))
    return pooled


def network_input(image: Array) -> Array:
    scaled: Array = (2 * image - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    return scaled


def alex_features(image: Array, weights: dict[str, Array]) -> list[Array]:
    x, layers = network_input(image), []
    for layer in range(5):
        if layer in (1, 2):
            x = pool(x, 3)
        stride, padding = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))[layer]
        kernel, bias = weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"]
        x = np.maximum(convolve(x, kernel, bias, stride, padding), 0)
        layers.append(x)
    return layers


def vgg_features(image: Array, weights: dict[str, Array]) -> list[Array]:
    x, layers, layer = network_input(image), [], 0
    for block, count in enumerate(VGG_BLOCKS):
        x = pool(x, 2) if block else x
        for _ in range(count):
            kernel, bias = weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"]
            x = np.maximum(convolve(x, kernel, bias), 0)
            layer += 1
        layers.append(x)
    return layers


def distance_on(x: list[Array], y: list[Array], weights: dict[str, Array]) -> float:
    """LPIPS of two images' features, by its formula."""
    total = 0.0
    for layer, (a, b) in enumerate(zip(x, y, strict=True)):
        a, b = (f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in (a, b))
        total += float((((a - b) ** 2) @ weights[f"head{layer}.weight"].ravel()).mean())
    return total


@cache
def alex_weights() -> dict[str, Array]:
    from importlib.resources import files

    packed = files("otcache_diffusers.metrics").joinpath("weights/lpips_alex.safetensors")
    return {k: v.astype(np.float64) for k, v in load_file(Path(str(packed))).items()}


@cache
def vgg_file() -> Path:
    """Return a VGG16 of four channels with random weights, in a folder that lives as long as the tests."""
    rng, channels = np.random.default_rng(0), 4
    tensors = {}
    for layer in range(sum(VGG_BLOCKS)):
        inputs = channels if layer else 3
        scale = (2 / (9 * inputs)) ** 0.5
        tensors[f"conv{layer}.weight"] = scale * rng.normal(size=(channels, inputs, 3, 3))
        tensors[f"conv{layer}.bias"] = 0.1 * rng.random(channels)
    for block in range(len(VGG_BLOCKS)):
        tensors[f"head{block}.weight"] = rng.random((1, channels, 1, 1))
    path = Path(scratch()) / "vgg.safetensors"
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, path)
    return path


@cache
def scratch() -> str:
    """Return a folder that is removed when the tests end."""
    folder = tempfile.TemporaryDirectory(prefix="otcache-metrics-")
    _kept.append(folder)
    return folder.name


_kept: list[tempfile.TemporaryDirectory[str]] = []


# -- kits ------------------------------------------------------------------------------------------


class RmseKit(MetricConformance):
    channel_blind = symmetric = True

    def make_metric(self) -> QualityMetric:
        return Rmse()

    def expected_values(self) -> ExpectedValues:
        """Roots of means of three squares."""
        value = np.sqrt(np.array([0.3**2 + 0.1**2, 0.8**2 + 0.3**2]) / 3)
        return ExpectedValues(flat_pair(), value, rtol=1e-12)


class PsnrKit(MetricConformance):
    channel_blind = symmetric = True

    def make_metric(self) -> QualityMetric:
        return Psnr()

    def expected_values(self) -> ExpectedValues:
        """Mean squares of 0.1 / 3 and 0.73 / 3, in decibels below 1."""
        return ExpectedValues(flat_pair(), 10 * np.log10([30.0, 300 / 73]), rtol=1e-12)


def luminance(exponent: float = 1.0) -> Array:
    """Flat images have no structure: what is left is (2ab + C1) / (a^2 + b^2 + C1), C1 = 1e-4."""
    x, y = (v[:, 0, 0] for v in flat_pair())
    similarity: Array = ((2 * x * y + 1e-4) / (x**2 + y**2 + 1e-4)) ** exponent
    return similarity.mean(axis=-1)


class SsimKit(MetricConformance):
    channel_blind = symmetric = True

    def make_metric(self) -> QualityMetric:
        return Ssim()

    def expected_values(self) -> ExpectedValues:
        return ExpectedValues(flat_pair(), luminance(), rtol=1e-9)


class MsSsimKit(MetricConformance):
    channel_blind = symmetric = True

    def make_metric(self) -> QualityMetric:
        return MsSsim()

    def expected_values(self) -> ExpectedValues:
        """Three scales; luminance enters at the third, by its share of their exponents."""
        share = 0.3001 / (0.0448 + 0.2856 + 0.3001)
        return ExpectedValues(flat_pair(), luminance(share), rtol=1e-9)


class HaarPsiKit(MetricConformance):
    symmetric = True

    def make_metric(self) -> QualityMetric:
        return HaarPsi()

    def expected_values(self) -> ExpectedValues:
        """Return what the authors' own code gives.

        ``haar_psi_numpy`` of haarPsi.py (github.com/rgcda/haarpsi, 3b9599b) on these images times 255, scipy
        1.17.1, numpy 2.4.6.
        """
        return ExpectedValues(golden_pair(64), [0.49379277391613796, 0.336391679710901], rtol=1e-12)


class LpipsKit(MetricConformance):
    def make_metric(self) -> QualityMetric:
        return Lpips()

    def expected_values(self) -> ExpectedValues:
        """Return the formula in plain numpy, in float64."""
        return ExpectedValues(golden_pair(64), _alex_distances(), rtol=1e-4)


@cache
def _alex_distances() -> list[float]:
    weights = alex_weights()
    pairs = [
        [alex_features(p, weights) for p in pair] for pair in zip(*golden_pair(64), strict=True)
    ]
    return [distance_on(x, y, weights) for x, y in pairs]


class LpipsVggKit(MetricConformance):
    def make_metric(self) -> QualityMetric:
        return LpipsVgg(vgg_file())

    def expected_values(self) -> ExpectedValues:
        """Return the formula in plain numpy, in float64, on a narrow network."""
        return ExpectedValues(golden_pair(64), _vgg_distances(), rtol=1e-4)


@cache
def _vgg_distances() -> list[float]:
    weights = {k: v.astype(np.float64) for k, v in load_file(vgg_file()).items()}
    pairs = [
        [vgg_features(p, weights) for p in pair] for pair in zip(*golden_pair(64), strict=True)
    ]
    return [distance_on(x, y, weights) for x, y in pairs]


class FrechetKit(SetMetricConformance):
    def make_metric(self) -> SetMetric:
        return Frechet(real_file())

    def expected_values(self) -> ExpectedValues:
        """Return the formula with scipy's matrix root, on features in plain numpy."""
        return ExpectedValues(
            (waves(8, (64, 64, 3))[:, ::-1] / 0.8,), _frechet_distance(), rtol=1e-4
        )

    def best(self) -> Array:
        return np.asarray(np.load(real_file()))


@cache
def real_file() -> Path:
    """Sixteen images in the place of real ones."""
    path = Path(scratch()) / "real.npy"
    np.save(path, np.concatenate([*(golden_pair(64)), waves(12, (64, 64, 3))]))
    return path


@cache
def _frechet_distance() -> float:
    from scipy.linalg import sqrtm

    def rows(images: Array) -> Array:
        deepest = [alex_features(p, alex_weights())[-1].reshape(-1, 256) for p in images]
        return np.concatenate(deepest)

    real, made = rows(np.load(real_file())), rows(waves(8, (64, 64, 3))[:, ::-1] / 0.8)
    _, _, directions = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)
    x, y = ((v - real.mean(axis=0)) @ directions[:16].T for v in (made, real))
    cx, cy = np.cov(x.T), np.cov(y.T)
    root = np.real(sqrtm(cx @ cy))
    return float(np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + np.trace(cx + cy - 2 * root))


class ClipScoreKit(PromptMetricConformance):
    shape = (tiny_scorers.SIDE, tiny_scorers.SIDE, 3)

    def make_metric(self) -> PromptMetric:
        return ClipScore(clip_folder())

    def expected_values(self) -> ExpectedValues:
        """Return the model's own logits over its temperature, of images normalised by hand."""
        images = golden_pair(tiny_scorers.SIDE)[0]
        return ExpectedValues(
            (images, self.prompts[:2]), _clip_cosines(self.prompts[:2]), rtol=1e-4
        )


@cache
def clip_folder() -> Path:
    return tiny_scorers.clip_folder(Path(scratch()) / "clip-score")


@cache
def _clip_cosines(prompts: tuple[str, ...]) -> list[float]:
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    with quiet_loading():
        model = CLIPModel.from_pretrained(clip_folder())
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder())
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels = ((golden_pair(tiny_scorers.SIDE)[0] - mean) / std).transpose(0, 3, 1, 2)
    words = tokenizer(list(prompts), padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(pixel_values=torch.from_numpy(pixels).float(), **words)
        logits = found.logits_per_image / model.logit_scale.exp()
    return [100 * max(float(value), 0.0) for value in logits.diagonal()]


class ImageRewardKit(PromptMetricConformance):
    shape = (tiny_scorers.SIDE, tiny_scorers.SIDE, 3)

    def make_metric(self) -> PromptMetric:
        return ImageReward(reward())

    def expected_values(self) -> ExpectedValues:
        """Return what ImageReward 1.5's own towers and head give.

        With transformers 4.35.2 and torch 2.13, for the checkpoint of ``tiny_scorers.reward_state``, its
        ``score`` from the normalised image on.
        """
        prompts = ("a red circle", "a small cat on a Blue background")
        images = golden_pair(tiny_scorers.SIDE)[0]
        value = [-0.21951906383037567, 0.1840377151966095]
        return ExpectedValues((images, prompts), value, rtol=1e-4)


@cache
def reward() -> Path:
    return tiny_scorers.reward_folder(Path(scratch()) / "reward")


KITS: dict[str, Any] = {
    "rmse": RmseKit,
    "psnr": PsnrKit,
    "ssim": SsimKit,
    "ms-ssim": MsSsimKit,
    "haarpsi": HaarPsiKit,
    "lpips": LpipsKit,
    "lpips-vgg": LpipsVggKit,
    "clip-score": ClipScoreKit,
    "image-reward": ImageRewardKit,
    "frechet": FrechetKit,
    "legible": LegibleKit,
}
