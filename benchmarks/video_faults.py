"""What each metric of videos says of planted faults, and how long it takes.

Prints the table and the times of docs/video-metrics.md. The video is a striped disc that crosses a plain
background by two pixels a frame; nothing is random but the noise, and that has a seed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from otcache_core.contracts import QualityMetric, VideoMetric, metric_values
from otcache_core.plugins import Registry
from otcache_core.testing.metric_checks import moving, noisy

SIDE, FRAMES, SPEED = 48, 9, 2.0
ALL = (
    "rmse",
    "ssim",
    "lpips",
    "flicker",
    "temporal-lpips",
    "warping-error",
    "motion-magnitude",
    "subject-consistency",
)
Video = NDArray[np.float64]


def main() -> None:
    """Print the table of docs/video-metrics.md."""
    torch.set_num_threads(1)
    registry = Registry()
    metrics = {name: registry.create("metrics", name) for name in ALL}
    print("| fault | " + " | ".join(ALL) + " |")
    print("|---|" + "--:|" * len(ALL))
    full = crossing(np.arange(FRAMES) * SPEED)
    for fault, made in faults(full):
        values = (metric_values(metric, made[None], full[None])[0] for metric in metrics.values())
        print(f"| {fault} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    print()
    videos = moving(32, FRAMES, (SIDE, SIDE, 3))
    for name, metric in metrics.items():
        print(f"{name}: {seconds(metric, noisy(videos, 0.05), videos):.2f} s of 32 videos")


def crossing(places: Video, colour: tuple[float, float, float] = (0.8, 0.2, 0.1)) -> Video:
    """Return the disc at these places, shape (frames, side, side, 3)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    x = x - 14 - places.reshape(-1, 1, 1)
    disc = 1 / (1 + np.exp((np.hypot(x, y - SIDE / 2) - 9) / 0.4))
    stripes = (0.85 + 0.15 * np.sin(0.9 * x + 0.5 * y))[..., None] * colour
    return np.asarray(0.9 + (stripes - 0.9) * disc[..., None])


def faults(full: Video) -> Iterator[tuple[str, Video]]:
    """Each fault and the video that has it."""
    rng, times = np.random.default_rng(0), np.arange(FRAMES)
    sign = np.where(times % 2, -1.0, 1.0).reshape(-1, 1, 1, 1)
    grain = rng.normal(0.0, 0.02, full.shape)
    yield "darker by 0.02 throughout", full - 0.02
    yield "brightness alternates by 0.02", full + 0.02 * sign
    yield "noise of 0.02, the same in every frame", (full + grain[:1]).clip(0, 1)
    yield "noise of 0.02, new in every frame", (full + grain).clip(0, 1)
    yield "blurred by 1 pixel", gaussian_filter(full, (0, 1, 1, 0))
    yield "late by one frame", crossing((times - 1) * SPEED)
    yield "half speed", crossing(times * SPEED / 2)
    yield "frozen", full[:1].repeat(FRAMES, axis=0)
    yield "every frame twice", full[times // 2]
    yield "frames in another order", full[[1, 3, 5, 7, 0, 2, 4, 6, 8]]
    yield "another colour from the sixth frame on", recoloured(full, times)
    yield "the disc is gone from the sixth frame on", vanished(full)


def recoloured(full: Video, times: NDArray[np.int_]) -> Video:
    """Return the video with another colour from the sixth frame on."""
    return np.concatenate([full[:5], crossing(times * SPEED, (0.1, 0.3, 0.8))[5:]])


def vanished(full: Video) -> Video:
    """Return the video without its disc from the sixth frame on."""
    return np.concatenate([full[:5], np.full_like(full[5:], 0.9)])


def seconds(metric: QualityMetric | VideoMetric, made: Video, full: Video) -> float:
    """Processor time of one comparison, after one of a single video."""
    metric_values(metric, made[:1], full[:1])
    start = time.process_time()
    metric_values(metric, made, full)
    return time.process_time() - start


if __name__ == "__main__":
    main()
