"""The conformance kit of every video metric, each with an answer that was derived without it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts import VideoMetric
from otcache_core.testing import ExpectedValues, VideoMetricConformance
from otcache_diffusers.metrics.backbones import AlexNet
from otcache_diffusers.metrics.lpips import Lpips
from otcache_diffusers.recording.sampler import quiet_loading
from otcache_video.metrics.features import SubjectConsistency, TemporalLpips
from otcache_video.metrics.motion import STILL, Flicker, MotionMagnitude, WarpingError

Array = NDArray[np.float64]
FRAMES, SIDE = 5, 48


# -- videos whose motion is known -------------------------------------------------------------------


def pattern(shift: Array, side: int = SIDE) -> Array:
    """Return a smooth pattern with gradients in all directions, moved right by ``shift`` pixels a frame.

    Its shape is (frames, side, side), its range -1 to 1.
    """
    y, x = np.mgrid[0:side, 0:side].astype(np.float64)
    x = x - np.reshape(shift, (-1, 1, 1))
    return 0.5 * np.sin(0.5 * x + 0.3 * y) + 0.5 * np.sin(0.35 * y - 0.45 * x + 1.0)


def gliding(speed: float, frames: int = FRAMES) -> Array:
    """Return a grey video that moves right by ``speed`` pixels a frame, shape (frames, side, side, 3)."""
    grey = 0.5 + 0.45 * pattern(speed * np.arange(frames))
    return np.repeat(grey[..., None], 3, axis=-1)


def colours_gliding(speed: float, frames: int = FRAMES) -> Array:
    """Red against green and blue, of one luma everywhere: motion that the luma does not show."""
    red = 0.15 * pattern(speed * np.arange(frames))
    return np.stack(
        [0.5 + 2 * red, 0.5 - 2 * 0.299 / 0.701 * red, 0.5 - 2 * 0.299 / 0.701 * red], -1
    )


def alternating(video: Array, amount: Array | float) -> Array:
    """Return the video, brighter in even frames and darker in odd ones."""
    sign = 1.0 - 2.0 * (np.arange(len(video)) % 2)
    return video + sign.reshape(-1, 1, 1, 1) * amount


# -- kits ------------------------------------------------------------------------------------------


class Kit(VideoMetricConformance):
    """Checks on small videos, still large enough for optical flow and a subject."""

    shape = (40, 40, 3)


class SmallKit(VideoMetricConformance):
    """Checks on the smallest videos that AlexNet reads."""

    shape = (32, 32, 3)
    frames = 4


class FlickerKit(SmallKit):
    channel_blind = True

    def make_metric(self) -> VideoMetric:
        return Flicker()

    def expected_values(self) -> ExpectedValues:
        """Twice the difference of amplitudes; over channels the root of the mean square."""
        still = np.full((FRAMES, SIDE, SIDE, 3), 0.5)
        made, full = np.array(
            [[[0.4, 0.0, 0.1], [0.1, 0.1, 0.2]], [[0.1, 0.0, 0.3], [0.0, 0.2, 0.0]]]
        )
        videos, reference = (np.stack([alternating(still, a) for a in v]) for v in (made, full))
        value = 2 * np.sqrt(((made - full) ** 2).mean(axis=1))
        return ExpectedValues((videos, reference), value, rtol=1e-12)


class TemporalLpipsKit(SmallKit):
    def make_metric(self) -> VideoMetric:
        return TemporalLpips()

    def expected_values(self) -> ExpectedValues:
        """LPIPS pair by pair, over a table of which frames are neighbours."""
        made, full = tinted(speeds=(2.0, 0.5))
        value = [np.mean(np.abs(steps(x) - steps(y))) for x, y in zip(made, full, strict=True)]
        return ExpectedValues((made, full), value, rtol=1e-3, atol=1e-6)


class WarpingErrorKit(SmallKit):
    def make_metric(self) -> VideoMetric:
        return WarpingError()

    def expected_values(self) -> ExpectedValues:
        """Luma is the same everywhere in the reference: no flow, and errors are plain differences."""
        full = np.stack([colours_gliding(1.0), colours_gliding(2.0)])
        made = np.stack([alternating(0.9 * v, [0.3, 0.05, 0.1]).clip(0, 1) for v in full])
        made[:, :, 0, 0] = [1.0, 0.2, 0.1]
        errors = [np.sqrt((np.diff(v, axis=1) ** 2).mean(axis=(2, 3, 4))) for v in (made, full)]
        value = np.abs(errors[0] - errors[1]).mean(axis=1)
        return ExpectedValues((made, full), value, rtol=1e-9)


class MotionMagnitudeKit(Kit):
    def make_metric(self) -> VideoMetric:
        return MotionMagnitude()

    def expected_values(self) -> ExpectedValues:
        """One made video moves at twice the speed, the other in colours of one luma: not at all."""
        made = np.stack([gliding(2.0) * [1.0, 0.8, 0.6], colours_gliding(1.0)])
        value = [np.log((2 + STILL) / (1 + STILL)), np.log((1 + STILL) / STILL)]
        return ExpectedValues((made, np.stack([gliding(1.0)] * 2)), value, rtol=0.03)


class SubjectConsistencyKit(Kit):
    def make_metric(self) -> VideoMetric:
        return SubjectConsistency()

    def expected_values(self) -> ExpectedValues:
        """Return the definition in loops, on features of single frames."""
        made, full = tinted(speeds=(2.0, 0.5))
        made[0, 3], made[1, 1] = 1.0 - made[0, 3], made[1, 1] ** 2
        network = AlexNet(torch.device("cpu"))

        def feature(frame: Array) -> Array:
            *_, deepest = network.features(frame[None])
            return np.asarray(deepest.double().mean(dim=(2, 3))[0])

        with torch.inference_mode():
            value = consistency_error(made, full, feature)
        return ExpectedValues((made, full), value, rtol=1e-3, atol=1e-6)


class DinoKit(Kit):
    def make_metric(self) -> VideoMetric:
        return SubjectConsistency(dino_folder())

    def expected_values(self) -> ExpectedValues:
        """Return the same on the class token of a tiny transformer, of frames normalised by hand."""
        from transformers import ViTModel

        made, full = tinted(speeds=(2.0, 0.5))
        made[0, 3], made[1, 1] = 1.0 - made[0, 3], made[1, 1] ** 2
        with quiet_loading():
            model = ViTModel.from_pretrained(dino_folder(), add_pooling_layer=False)

        def feature(frame: Array) -> Array:
            pixels = (frame - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
            return np.asarray(model(pixel_values=batch).last_hidden_state[0, 0].double())

        with torch.inference_mode():
            value = consistency_error(made, full, feature)
        return ExpectedValues((made, full), value, rtol=1e-3, atol=1e-6)


# -- oracles ---------------------------------------------------------------------------------------


def tinted(speeds: tuple[float, ...]) -> tuple[Array, Array]:
    """Coloured videos at these speeds, and references at one pixel a frame."""
    tint = np.array([1.0, 0.7, 0.3])
    made = np.stack([gliding(speed) * tint for speed in speeds])
    return made, np.stack([gliding(1.0) * tint[::-1]] * len(speeds))


def steps(video: Array) -> Array:
    """LPIPS of each pair of neighbouring frames."""
    pairs = [(video[t][None], video[t + 1][None]) for t in range(len(video) - 1)]
    return np.array([Lpips()(a, b)[0] for a, b in pairs])


def consistency_error(made: Array, full: Array, feature: Any) -> list[float]:
    def cosine(a: Array, b: Array) -> float:
        return max(0.0, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))

    def consistency(video: Array) -> float:
        f = [feature(frame) for frame in video]
        scores = [(cosine(f[0], f[t]) + cosine(f[t - 1], f[t])) / 2 for t in range(1, len(video))]
        return sum(scores) / len(scores)

    return [abs(consistency(x) - consistency(y)) for x, y in zip(made, full, strict=True)]


@cache
def dino_folder() -> Path:
    """Return a ViT of random weights whose input is one kit frame."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=16,
        initializer_range=0.3,
    )
    folder = tempfile.TemporaryDirectory(prefix="otcache-dino-")
    _kept.append(folder)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder.name)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []

KITS: dict[str, Any] = {
    "flicker": FlickerKit,
    "temporal-lpips": TemporalLpipsKit,
    "warping-error": WarpingErrorKit,
    "motion-magnitude": MotionMagnitudeKit,
    "subject-consistency": SubjectConsistencyKit,
}
