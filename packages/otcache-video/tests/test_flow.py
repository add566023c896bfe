"""Optical flow against known motion, scikit-image's flow and scipy's resampling."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.registration import optical_flow_ilk

from otcache_video.metrics import motion as flow
from otcache_video.metrics.motion import frames, optical_flow, visible, warp

sys.path.insert(0, str(Path(__file__).parent))
import video_kits

Array = NDArray[np.float64]
CPU = torch.device("cpu")


def measured(first: Array, second: Array) -> Array:
    """Flow between two grey images, shape (2, height, width)."""
    pair = frames(np.repeat(np.stack([first, second])[..., None], 3, axis=-1), CPU)
    return np.asarray(optical_flow(pair[:1], pair[1:])[0])


def moved(right: float, down: float) -> Array:
    """Return a pattern with gradients in all directions, moved."""
    y, x = np.mgrid[0:48, 0:48].astype(np.float64)
    x, y = x - right, y - down
    return 0.5 + 0.2 * np.sin(0.5 * x + 0.3 * y) + 0.2 * np.sin(0.35 * y - 0.45 * x + 1.0)


def disc(right: float) -> Array:
    """Return a dark disc of radius 8 on plain grey, moved."""
    y, x = np.mgrid[0:48, 0:48].astype(np.float64)
    inside = 1 / (1 + np.exp((np.hypot(x - 20 - right, y - 24) - 8) / 0.4))
    return np.asarray(0.8 - (0.5 + 0.1 * np.sin(0.8 * (x - right))) * inside)


@pytest.mark.parametrize(
    ("right", "down"),
    [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.25, -0.5), (2.0, 1.5), (-3.0, 2.0)],
)
def test_a_known_motion_is_found(right: float, down: float) -> None:
    found = measured(moved(0.0, 0.0), moved(right, down))[:, 6:-6, 6:-6]
    np.testing.assert_allclose(found.mean(axis=(1, 2)), (right, down), rtol=0.02, atol=0.01)
    assert np.abs(found - np.reshape((right, down), (2, 1, 1))).max() < 0.1 * np.hypot(right, down)


@pytest.mark.parametrize("pixels", [1, 4, 6])
def test_far_motion_of_a_cloud_is_found(pixels: int) -> None:
    cloud = gaussian_filter(np.random.default_rng(0).normal(size=(80, 80)), 2)
    cloud = 0.5 + 0.15 * cloud / cloud.std()
    found = measured(cloud[16:64, 16:64], cloud[16:64, 16 - pixels : 64 - pixels])
    assert np.abs(found[0, 8:-8, 8:-8] - pixels).mean() < 0.05 * pixels


def test_the_same_image_does_not_move() -> None:
    assert np.abs(measured(moved(0, 0), moved(0, 0))).max() < 1e-9


def test_scikit_image_finds_the_same_in_a_textured_image() -> None:
    first, second = moved(0.0, 0.0), moved(1.5, -0.5)
    down, right = optical_flow_ilk(first, second)
    difference = measured(first, second) - np.stack([right, down])
    assert np.sqrt((difference[:, 8:-8, 8:-8] ** 2).mean()) < 0.06


def test_a_plain_background_stays_where_it_is() -> None:
    """With noise of half a level of 256; scikit-image's flow moves with the disc far away from it."""
    first, second = disc(0.0), disc(2.0)
    y, x = np.mgrid[0:48, 0:48]
    radius = np.hypot(x - 21, y - 24)
    assert measured(first, second)[0][radius < 6].mean() == pytest.approx(2.0, rel=0.05)
    assert np.hypot(*measured(first, second))[radius > 20].max() < 1e-2
    first, second = np.random.default_rng(0).normal([first, second], 0.002)
    assert np.hypot(*measured(first, second))[radius > 20].mean() < 0.1
    assert np.hypot(*optical_flow_ilk(first, second))[radius > 20].mean() > 1.0


def test_weak_texture_counts_as_much_as_its_gradient() -> None:
    """A ramp of gradient G moves by the least-squares flow times G^2 / (G^2 + lambda)."""
    ramp = np.broadcast_to(0.3 + 0.01 * np.arange(48.0), (48, 48))
    found = measured(ramp, ramp - 0.01)
    power = 0.01**2
    wanted = power / (power + flow.PRIOR)
    np.testing.assert_allclose(found[0, 12:-12, 12:-12], wanted, rtol=1e-2)
    np.testing.assert_allclose(found[1], 0.0, atol=1e-9)


def test_warping_is_bilinear_resampling() -> None:
    rng = np.random.default_rng(0)
    image, w = rng.random((9, 13, 3)), rng.uniform(-3, 3, (2, 9, 13))
    y, x = np.mgrid[0:9, 0:13]
    found = np.asarray(warp(frames(image[None], CPU), torch.from_numpy(w[None]))[0])
    for c in range(3):
        wanted = map_coordinates(image[..., c], [y + w[1], x + w[0]], order=1, mode="nearest")
        np.testing.assert_allclose(found[c], wanted, atol=1e-12)


def test_what_leaves_the_frame_or_does_not_come_home_is_not_visible() -> None:
    forward = torch.zeros(1, 2, 6, 8, dtype=torch.float64)
    forward[:, 0] = 2.0
    seen = visible(forward, -forward)
    assert seen[0, :, :6].all()
    assert not seen[0, :, 6:].any()
    astray = -forward
    astray[:, :, :3] += 1.0  # |w + w'|^2 = 2 > 0.01 * (4 + 2) + 0.5
    assert not visible(forward, astray)[0, :3].any()
    assert visible(forward, astray)[0, 3:, :6].all()


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    video = frames(video_kits.gliding(1.0), CPU)
    together = optical_flow(video[:-1], video[1:])
    monkeypatch.setattr(flow, "PIXELS", 48 * 48)
    torch.testing.assert_close(optical_flow(video[:-1], video[1:]), together, rtol=0, atol=1e-12)


def test_odd_sizes_will_do() -> None:
    y, x = np.mgrid[0:37, 0:71].astype(np.float64)
    first, second = (0.5 + 0.3 * np.sin(0.5 * (x - s) + 0.2 * y) for s in (0.0, 1.0))
    assert measured(first, second)[0, 8:-8, 8:-8].mean() > 0.8
